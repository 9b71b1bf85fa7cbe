"""The plumbing of attach and exec: one hijacked connection, one engine attachment, both directions, until either
ends."""

from __future__ import annotations

import asyncio

from hyper.api.docker import framing
from hyper.api.docker.detach_keys import DetachScanner
from hyper.api.docker.versions import Version
from hyper.api.http.messages import HijackResponse, RawConnection
from hyper.engine.api import Attachment


def hijack(
    attachment: Attachment, *, version: Version, multiplexed: bool, stdin: bool, detach_keys: bytes | None
) -> HijackResponse:
    """``detach_keys`` None: not looked for (Docker does so only on a terminal)."""

    async def run(raw: RawConnection) -> None:
        await join(raw, attachment, multiplexed=multiplexed, stdin=stdin, detach_keys=detach_keys)

    return HijackResponse(run, attachment.close, framing.media_type(multiplexed=multiplexed, version=version))


async def join(
    raw: RawConnection, attachment: Attachment, *, multiplexed: bool, stdin: bool, detach_keys: bytes | None
) -> None:
    """Both directions; closes the attachment however it ends."""
    try:
        await _join(raw, attachment, multiplexed=multiplexed, stdin=stdin, detach_keys=detach_keys)
    finally:
        await attachment.close()


async def _join(
    raw: RawConnection, attachment: Attachment, *, multiplexed: bool, stdin: bool, detach_keys: bytes | None
) -> None:
    """Until the output ended, the client detached by its keys, or it is gone. The end of its input ends only stdin."""
    output = asyncio.create_task(_copy_output(raw, attachment, multiplexed=multiplexed))
    scanner = DetachScanner(detach_keys) if detach_keys is not None else None
    source = asyncio.create_task(_copy_input(raw, attachment, stdin=stdin, scanner=scanner))
    try:
        await asyncio.wait({output, source}, return_when=asyncio.FIRST_COMPLETED)
        if not output.done() and not source.result():
            await output
        if output.done():
            output.result()
    finally:
        output.cancel()
        source.cancel()
        await asyncio.gather(output, source, return_exceptions=True)


async def _copy_output(raw: RawConnection, attachment: Attachment, *, multiplexed: bool) -> None:
    async for stream, data in attachment.output():
        if multiplexed:
            await raw.write(framing.header(stream, len(data)), data)
        else:
            await raw.write(data)


async def _copy_input(
    raw: RawConnection, attachment: Attachment, *, stdin: bool, scanner: DetachScanner | None
) -> bool:
    """Whether the client detached by its keys; False at its end of input."""
    while data := await raw.read():
        if not stdin:
            continue
        if scanner is not None:
            data, detached = scanner.feed(data)
            if data:
                await attachment.write(data)
            if detached:
                return True
        else:
            await attachment.write(data)
    if stdin and not attachment.tty:
        await attachment.finish()
    return False
