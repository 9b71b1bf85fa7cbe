"""The QMP connection of one VMM: the ``qemu.qmp`` library behind deadlines and our errors, plus passing of descriptors.

QEMU may hang or, once broken into, lie: every call has a deadline, events that nobody waits for are dropped at once,
answers are used as data only. The library is imported when first needed: it costs 45 ms.

Errors: Unavailable when QEMU does not answer in time or the connection is gone; Internal when it refuses a command.
"""

from __future__ import annotations

import array
import asyncio
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyper.errors import Internal, Unavailable

if TYPE_CHECKING:
    from qemu.qmp import Message, QMPClient

_CONNECT_RETRY_S = 0.02


class Qmp:
    """One connection; QEMU serves one at a time. Made by :meth:`connect`, ended by :meth:`close`."""

    def __init__(self, client: QMPClient, connection: socket.socket, timeout_s: float) -> None:
        self._client = client
        self._socket = connection
        self._timeout_s = timeout_s
        self._descriptor = asyncio.Lock()
        self._deleted: dict[str, asyncio.Future[None]] = {}
        self.shutdown_reason: str | None = None
        """``reason`` of QEMU's SHUTDOWN event, for example "guest-shutdown"."""

    @classmethod
    async def connect(cls, path: Path, timeout_s: float) -> Qmp:
        """Connect and negotiate."""
        from qemu.qmp import QMPClient, QMPError

        # A protocol error is reported to the caller; the library's own log would only repeat it.
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
        client = QMPClient()
        # It would ask for out-of-band commands, with which QEMU reads on in one thread while another carries out a
        # command: that crashes it when the command takes a descriptor (char-socket.c: tcp_chr_recv, tcp_get_msgfds).
        client.negotiate = False
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        qmp = cls(client, connection, timeout_s)
        # The default listener queues every event for ever; its filter runs as each arrives, and ours lets none through.
        client.events.event_filter = qmp._on_event
        try:
            async with asyncio.timeout(timeout_s):
                await _connect(connection, path)
                await client.connect(connection)
                await client.execute("qmp_capabilities")
        except BaseException as error:
            await asyncio.shield(qmp.close())
            if not isinstance(error, (OSError, QMPError, TimeoutError)):
                raise
            raise Unavailable(
                f"QEMU does not answer on its control socket within {timeout_s:g} s: {error or 'timed out'}"
            ) from error
        return qmp

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> Any:
        """Run one command and return its result."""
        from qemu.qmp import ExecuteError, QMPError

        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise Internal(f"QEMU refused {command}: {error}") from error
        except TimeoutError as error:
            raise Unavailable(f"QEMU did not answer {command} within {self._timeout_s:g} s; it hangs") from error
        except (QMPError, OSError, EOFError) as error:
            raise Unavailable(f"QEMU's control connection broke during {command}: {error}") from error

    async def add_fd(self, fd: int, fdset: int, opaque: str) -> None:
        """Give QEMU a duplicate of ``fd`` as ``/dev/fdset/<fdset>``; ``opaque`` comes back in query-fdsets."""
        await self._execute_with(fd, "add-fd", {"fdset-id": fdset, "opaque": opaque})

    async def get_fd(self, fd: int, name: str) -> None:
        """Give QEMU a duplicate of ``fd`` under a name for one later command, which closes it."""
        await self._execute_with(fd, "getfd", {"fdname": name})

    async def _execute_with(self, fd: int, command: str, arguments: dict[str, object]) -> None:
        async with self._descriptor:  # a descriptor belongs to the next command that asks for one
            try:
                # One blank: white space between commands. Sent on the socket itself, as uvloop's transports cannot
                # carry descriptors.
                self._socket.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            except OSError as error:
                raise Unavailable(f"QEMU takes no descriptor: {error}") from error
            await self.execute(command, arguments)

    async def unplug(self, device: str) -> None:
        """``device_del``, then wait until the device is really gone."""
        gone = self._deleted.setdefault(device, asyncio.get_running_loop().create_future())
        try:
            await self.execute("device_del", {"id": device})
            async with asyncio.timeout(self._timeout_s):
                await asyncio.shield(gone)
        except TimeoutError as error:
            raise Unavailable(f"the guest did not let go of {device} within {self._timeout_s:g} s") from error
        finally:
            self._deleted.pop(device, None)

    async def drain(self, timeout_s: float) -> None:
        """After QEMU's death: take in what it said before, so that :attr:`shutdown_reason` is known."""
        from qemu.qmp import Runstate

        try:
            async with asyncio.timeout(timeout_s):
                while self._client.runstate is Runstate.RUNNING:
                    await self._client.runstate_changed()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """Drop the connection; never raises, never takes longer than the deadline. QEMU goes on."""
        from qemu.qmp import QMPError

        try:
            async with asyncio.timeout(self._timeout_s):
                await self._client.disconnect()
        except (QMPError, OSError, EOFError, TimeoutError):
            pass
        finally:
            self._socket.close()

    def _on_event(self, event: Message) -> bool:
        data = event.get("data")
        if isinstance(data, dict):
            if event.get("event") == "DEVICE_DELETED":
                gone = self._deleted.get(str(data.get("device")))
                if gone is not None and not gone.done():
                    gone.set_result(None)
            elif event.get("event") == "SHUTDOWN":
                self.shutdown_reason = str(data.get("reason"))[:100]
        return False


async def _connect(connection: socket.socket, path: Path) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            await loop.sock_connect(connection, str(path))
        except BlockingIOError:
            # A listener whose queue is full: QEMU serves one client, and a dead daemon's may still be being cleared
            # away.
            await asyncio.sleep(_CONNECT_RETRY_S)
        else:
            return
