"""docker-py's own integration tests, run against hyperd: fetched, never copied here."""
