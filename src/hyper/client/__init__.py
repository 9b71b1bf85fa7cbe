"""A small client of the Docker Engine API over a unix socket, for the command line. Imports as little as it can."""
