"""Hyper: a hypervisor-based Docker engine. See ARCHITECTURE.md for the map of this package."""

__version__ = "0.1.0"
