"""From a machine's description to a VMM whose agent answers: booted, or gone on from a template's state.

Neighbours: ``maker.py`` (describes the machine and gives it what it needs).
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from pathlib import Path
from typing import Protocol

from hyper.errors import AlreadyExists, ResourceExhausted, Unavailable
from hyper.guest.agent import Agent
from hyper.hypervisors.base import Hypervisor, MachineSpec, Vmm
from hyper.system import blocking

_FIRST_STREAM_OF_CLONES = 1 << 10
"""Above what a template's rehearsal uses."""


class ConnectAgent(Protocol):
    """:meth:`hyper.guest.agent.Agent.connect`, or a test's."""

    async def __call__(self, socket: Path, *, instance: str, first: bool, deadline_s: float) -> Agent: ...


class Launcher:
    """Starts machines; ``answer_timeout_s`` is how long an agent may take to answer first."""

    def __init__(self, hypervisor: Hypervisor, connect: ConnectAgent, answer_timeout_s: float) -> None:
        self._hypervisor = hypervisor
        self._connect = connect
        self._answer_timeout_s = answer_timeout_s

    async def start(self, spec: MachineSpec) -> tuple[Vmm, Agent, dict[str, float]]:
        """The VMM, its agent, and milliseconds by phase: ``vmm`` (QEMU runs, and has its state if it is a clone) and
        ``boot`` or ``wake`` (until the agent answers). Takes over the taps; Unavailable when the guest does not come
        up; leaves nothing behind then."""
        timings: dict[str, float] = {}
        began = time.monotonic()
        vmm: Vmm | None = None
        try:
            _make_directory(spec)
        except BaseException:
            spec.close_taps()
            raise
        try:
            vmm = await self._hypervisor.launch(spec)
            running = time.monotonic()
            timings["vmm"] = round((running - began) * 1000, 1)
            agent = await self._agent(vmm)
            if spec.restore is not None:
                agent.skip_streams(_FIRST_STREAM_OF_CLONES)
            phase = "wake" if spec.restore is not None else "boot"
            timings[phase] = round((time.monotonic() - running) * 1000, 1)
        except BaseException:
            await asyncio.shield(_abandon(vmm, spec.runtime_dir))
            raise
        return vmm, agent, timings

    async def answers(self, socket: Path) -> bool:
        """Whether an agent answers behind ``socket``, for the hypervisor's probe."""
        try:
            agent = await self._connect_first(socket)
        except Unavailable:
            return False
        await agent.release()
        return True

    async def _connect_first(self, socket: Path) -> Agent:
        return await self._connect(
            socket, instance=secrets.token_hex(16), first=True, deadline_s=self._answer_timeout_s
        )

    async def _agent(self, vmm: Vmm) -> Agent:
        """The agent, or why there is none: the VM's own end says more than a deadline that passed."""
        connecting = asyncio.ensure_future(self._connect_first(vmm.agent_socket))
        ended = asyncio.ensure_future(vmm.wait())
        try:
            await asyncio.wait((connecting, ended), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise Unavailable(f"the VM ended before its agent answered: {ended.result().reason}")
            try:
                return connecting.result()
            except Unavailable as error:
                words = vmm.last_words()
                raise Unavailable(
                    f"the VM's agent did not answer within {self._answer_timeout_s:g} s ({error.message})"
                    + (f"; last words on its console: {words}" if words else "")
                ) from error
        finally:
            for task in (connecting, ended):
                if not task.done():
                    task.cancel()
            await asyncio.gather(connecting, ended, return_exceptions=True)


def _make_directory(spec: MachineSpec) -> None:
    try:
        spec.runtime_dir.mkdir(mode=0o711)
    except FileExistsError as error:
        raise AlreadyExists(f"sandbox {spec.sandbox_id} exists already") from error
    except OSError as error:
        raise ResourceExhausted(f"{spec.runtime_dir} cannot be made: {error.strerror}") from error


async def _abandon(vmm: Vmm | None, runtime_dir: Path) -> None:
    if vmm is not None:
        await vmm.kill()
    await blocking.run(shutil.rmtree, runtime_dir, ignore_errors=True)
