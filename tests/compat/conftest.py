"""The doors that these tests knock at: ``tests/hyperd.py``."""

from tests.hyperd import door, hyperd

__all__ = ["door", "hyperd"]
