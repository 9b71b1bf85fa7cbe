"""``hyper``, the command line: speaks only the API; one module per verb group, imported when used."""
