"""nftables through the library that the ``nft`` command is made of (libnftables, by ctypes).

A script is one transaction: the kernel applies all of it or nothing. About 0.1 ms a rule, against 2.3 ms for starting
the command. Callers write scripts from values they have checked themselves (addresses, ports, numbers); nothing a guest
or user wrote may get into one as text.

Neighbours: ``hyper.networks.rules`` writes the scripts.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

from hyper.errors import FailedPrecondition, Internal

LIBRARY = "libnftables.so.1"

_OUTPUT_JSON = 1 << 4


class Nftables:
    """One libnftables context, bound to the network namespace it was opened in. Not for use from several threads."""

    def __init__(self, *, library: str = LIBRARY) -> None:
        """FailedPrecondition when the library is not installed."""
        self._context: int | None = None
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise FailedPrecondition(
                f"the library {library} is missing, which sets up address translation for containers: install it "
                "(Debian: apt-get install libnftables1), or run with --network none"
            ) from error
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        for function in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(self._library, function).restype = ctypes.c_char_p
            getattr(self._library, function).argtypes = [ctypes.c_void_p]
        for function in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
            getattr(self._library, function).argtypes = [ctypes.c_void_p]
        self._library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        self._library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        context = self._library.nft_ctx_new(0)
        if not context:
            raise Internal(
                "libnftables gave no context: out of memory, or netlink sockets are forbidden to this process"
            )
        self._context = context
        self._library.nft_ctx_buffer_output(context)
        self._library.nft_ctx_buffer_error(context)

    def close(self) -> None:
        """Idempotent. Rules stay."""
        context, self._context = self._context, None
        if context is not None:
            self._library.nft_ctx_free(context)

    def run(self, script: str) -> None:
        """Apply the script as one transaction. OSError with nft's own words when the kernel or the parser refuses
        it."""
        self._run(script, flags=0)

    def list_json(self, command: str) -> list[dict[str, Any]]:
        """The objects that a ``list …`` command shows (libnftables-json(5)), without the leading metainfo."""
        text = self._run(command, flags=_OUTPUT_JSON)
        objects: list[dict[str, Any]] = json.loads(text)["nftables"] if text.strip() else []
        return [entry for entry in objects if "metainfo" not in entry]

    def _run(self, script: str, *, flags: int) -> str:
        if self._context is None:
            raise Internal("nftables was used after it was closed")
        self._library.nft_ctx_output_set_flags(self._context, flags)
        failed = self._library.nft_run_cmd_from_buffer(self._context, script.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        complaint: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise OSError(_first_lines(complaint.decode(errors="replace")))
        return output.decode()


def _first_lines(complaint: str) -> str:
    lines = [line for line in complaint.splitlines() if line.strip(" ^~")]
    return "nftables refused: " + " | ".join(lines[:4])
