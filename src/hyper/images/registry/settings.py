"""What the registry client needs to be told: mirrors, registries that are not secure, certificates, patience.

Neighbours: ``hyper.config`` (where the values come from), ``endpoints.py``, ``transport.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class RegistrySettings:
    """``insecure``: ``host``, ``host:port`` or subnets. ``certificates``: folders with one folder for each registry,
    as Docker's certs.d, looked at in this order. ``environment``: for the proxies."""

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    certificates: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    downloads: int = 3
    uploads: int = 5
    attempts: int = 5
    """Of one request or blob, while no progress is made."""
    retry_s: float = 1.0
    """Before the second attempt; doubled for each further one."""
    retry_most_s: float = 30.0
    connect_s: float = 20.0
    idle_s: float = 60.0
    """Without a byte."""
