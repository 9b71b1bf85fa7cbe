"""Directories that outlive containers: named volumes, and how they and the host's own get into a VM."""
