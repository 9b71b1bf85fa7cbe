"""Every bound of the HTTP server in one place: what a client may make us hold or wait for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds per connection unless it says otherwise. A client that breaks one is answered with the status named,
    then closed."""

    head_bytes: int = 32 * 1024
    """Request line and headers: 431."""
    body_bytes: int = 4 * 1024 * 1024
    """A body that is read whole (JSON): 413. Streamed bodies have no bound of their own."""
    head_s: float = 10.0
    """From the first byte of a head to its end: 408. Stops clients that send a byte now and then."""
    body_s: float = 30.0
    """For a body that is read whole: 408."""
    idle_s: float = 600.0
    """A kept-alive connection without a request is closed, silently."""
    connections: int = 4096
    """Of the whole server: 503."""
    inbound_high_bytes: int = 1024 * 1024
    """Bytes received and not yet taken at which reading from the socket pauses; it resumes at a quarter of it."""
    outbound_high_bytes: int = 512 * 1024
    """Bytes written and not yet sent at which a writer waits."""
    drain_s: float = 5.0
    """How long plain requests may go on when the server closes. Streams and hijacked connections end at once."""
    write_stall_s: float = 60.0
    """How long the end of a connection waits for a client to take what is left of a complete response."""
