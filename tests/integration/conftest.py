"""A real hyperd for integration tests: ``tests/hyperd.py``."""

from tests.hyperd import hyperd

__all__ = ["hyperd"]
