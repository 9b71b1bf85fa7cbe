"""The Docker Engine API, v1.24 to v1.50: one route module per resource."""
