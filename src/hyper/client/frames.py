"""Stdout and stderr on one connection: frames of an 8-byte header (stream, three zeros, length big-endian) and a
payload.

Source: the Docker Engine API description, "Stream format" of ``POST /containers/{id}/attach``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hyper.errors import DataLoss

STDIN, STDOUT, STDERR, SYSTEM_ERROR = 0, 1, 2, 3


def split_frames(pieces: Iterable[bytes]) -> Iterator[tuple[int, memoryview]]:
    """(stream, part of a payload) from pieces cut anywhere. A frame's payload may come in several parts: nothing
    waits for a
    frame's end, so memory stays at one piece whatever length a frame says it has. Raises DataLoss when the end comes
    inside of a frame.
    """
    header = b""
    stream, left = 0, 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            if left:
                part, view = view[:left], view[left:]
                left -= len(part)
                yield stream, part
                continue
            wanted = 8 - len(header)
            header += view[:wanted].tobytes()
            view = view[wanted:]
            if len(header) == 8:
                stream, left = header[0], int.from_bytes(header[4:], "big")
                if stream > SYSTEM_ERROR or header[1:4] != b"\0\0\0":
                    raise DataLoss("the engine's output stream is damaged: no frame begins where one should")
                header = b""
    if left or header:
        raise DataLoss("the connection to the engine ended in the middle of the container's output")
