"""The plain way to a sandbox: boot a VM, wait for its agent, tell it who it is.

A template's clone will be another class with the same :meth:`ColdBoot.start`; :mod:`hyper.sandboxes.source` picks.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from hyper.errors import AlreadyExists, ResourceExhausted, Unavailable
from hyper.guest.agent import Agent
from hyper.guest.messages import Configuration
from hyper.hypervisors.base import Hypervisor, MachineSpec, Vmm
from hyper.sandboxes.model import SandboxConfig
from hyper.system import blocking

ENTROPY_BYTES = 64


class ColdBoot:
    """``connect`` gets the agent's socket and a deadline in seconds; raises Unavailable."""

    def __init__(
        self, hypervisor: Hypervisor, connect: Callable[[Path, float], Awaitable[Agent]], boot_timeout_s: float
    ) -> None:
        self._hypervisor = hypervisor
        self._connect = connect
        self._boot_timeout_s = boot_timeout_s

    async def start(self, spec: MachineSpec, config: SandboxConfig) -> tuple[Vmm, Agent, dict[str, float]]:
        """The VMM, its agent, and milliseconds by phase: ``vmm`` (QEMU runs), ``boot`` (the agent answers),
        ``configure``. Unavailable when the guest does not come up; leaves nothing behind then."""
        timings: dict[str, float] = {}
        mark = time.monotonic()

        def lap(phase: str) -> None:
            nonlocal mark
            now = time.monotonic()
            timings[phase] = round((now - mark) * 1000, 1)
            mark = now

        _make_directory(spec)
        vmm: Vmm | None = None
        agent: Agent | None = None
        try:
            vmm = await self._hypervisor.launch(spec)
            lap("vmm")
            agent = await self._agent(vmm)
            lap("boot")
            await agent.configure(_configuration(config))
            lap("configure")
        except BaseException:
            await asyncio.shield(_abandon(vmm, agent, spec.runtime_dir))
            raise
        return vmm, agent, timings

    async def _agent(self, vmm: Vmm) -> Agent:
        """The agent, or why there is none: the VM's own end says more than a deadline that passed."""
        connecting = asyncio.ensure_future(self._connect(vmm.agent_socket, self._boot_timeout_s))
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
                    f"the VM's agent did not answer within {self._boot_timeout_s:g} s ({error.message})"
                    + (f"; last words on its console: {words}" if words else "")
                ) from error
        finally:
            for task in (connecting, ended):
                if not task.done():
                    task.cancel()
            await asyncio.gather(connecting, ended, return_exceptions=True)


def _configuration(config: SandboxConfig) -> Configuration:
    return Configuration(
        hostname=config.hostname,
        time_ns=time.time_ns(),
        entropy=os.urandom(ENTROPY_BYTES),
        interfaces=list(config.interfaces),
        sysctls=dict(config.sysctls),
        machine_id=config.machine_id,
    )


def _make_directory(spec: MachineSpec) -> None:
    try:
        spec.runtime_dir.mkdir(mode=0o711)
    except OSError as error:
        for nic in spec.nics:
            os.close(nic.tap_fd)
        if isinstance(error, FileExistsError):
            raise AlreadyExists(f"sandbox {spec.sandbox_id} exists already") from error
        raise ResourceExhausted(f"{spec.runtime_dir} cannot be made: {error.strerror}") from error


async def _abandon(vmm: Vmm | None, agent: Agent | None, runtime_dir: Path) -> None:
    if agent is not None:
        await agent.release()
    if vmm is not None:
        await vmm.kill()
    await blocking.run(shutil.rmtree, runtime_dir, ignore_errors=True)
