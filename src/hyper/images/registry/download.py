"""One blob as a stream that survives broken connections: it goes on where it broke off, and never gives too much.

Neighbours: ``repository.py`` (one request), ``retry.py``; ``hyper.images.transfers`` (spools and verifies).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from hyper.errors import DataLoss
from hyper.images.registry.failures import RegistryFailure, translated
from hyper.images.registry.repository import Repository
from hyper.images.registry.retry import Retry
from hyper.images.registry.settings import RegistrySettings
from hyper.oci.descriptor import Descriptor

if TYPE_CHECKING:
    import aiohttp

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")
_PROGRESS_BYTES = 1 << 20
"""A connection that brought so much counts as progress; one that breaks sooner, again and again, is given up."""


async def blob_chunks(
    repository: Repository,
    blob: Descriptor,
    settings: RegistrySettings,
    *,
    waiting: Callable[[float], None] = lambda delay_s: None,
) -> AsyncGenerator[bytes, None]:
    """Exactly ``blob.size`` bytes, whose digest is the caller's to verify. ``waiting``: told before each pause.

    RegistryFailure when it cannot be had, DataLoss when the registry has another size than its manifest says."""
    retry = Retry(settings)
    done = 0
    while True:
        began = done
        try:
            async with repository.open_blob(blob.digest, done) as response:
                skip = _skipped(response, blob, done)
                with translated("GET", str(response.url)):
                    async for chunk in response.content.iter_any():
                        if skip >= len(chunk):
                            skip -= len(chunk)
                            continue
                        piece = chunk[skip:] if skip else chunk
                        skip = 0
                        done += len(piece)
                        if done > blob.size:
                            raise DataLoss(
                                f"blob {blob.digest} is longer than the {blob.size} bytes that its manifest says"
                            )
                        if done - began >= _PROGRESS_BYTES:
                            retry.progressed()
                        yield piece
            if done == blob.size:
                return
            failure = RegistryFailure(f'Get "{response.url}": unexpected EOF', transient=True)
        except RegistryFailure as error:
            if done == blob.size and blob.size:
                return
            failure = error
        delay_s = retry.delay_s(failure)
        if delay_s is None:
            raise failure
        waiting(delay_s)
        await asyncio.sleep(delay_s)


def _skipped(response: aiohttp.ClientResponse, blob: Descriptor, start: int) -> int:
    """How many of the response's bytes we have already: servers may ignore a range."""
    if response.status == 206 and start:
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        given = int(match[1]) if match else start
        if given > start:
            raise RegistryFailure(f'Get "{response.url}": the registry left out bytes {start} to {given}')
        return start - given
    length = response.headers.get("Content-Length", "")
    if length.isascii() and length.isdigit() and int(length) != blob.size:
        raise DataLoss(
            f"blob {blob.digest} has {int(length)} bytes at the registry and {blob.size} in its manifest: "
            "the image is damaged there, or somebody tampers with it"
        )
    return start
