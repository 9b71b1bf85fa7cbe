"""Doors to the engine. Today one: the Docker Engine API."""
