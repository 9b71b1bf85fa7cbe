"""The engines of a run: Hyper on each rung with each kernel, Docker, Podman; all started with the same image, all
at rest.

One that cannot be had is told of with the reason, and the run goes on without it. Neighbours: ``hyper_engine.py``,
``docker_engine.py``, ``podman_engine.py`` (how each starts and ends), ``plan.py`` (which a run wants).
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from bench.docker_engine import docker_engine
from bench.engine import Engine, NotAvailable
from bench.hyper_engine import HyperEngine, hyper_engine
from bench.leftovers import own_folder
from bench.peers import UNPACKED, Peers
from bench.podman_engine import podman_engine
from bench.rungs import Kernel, Rung, kernels
from tests.unit.images.store_tools import docker_archive, image

from hyper.images.builtin import BUSYBOX, CHANGES, root_tar

E = TypeVar("E", bound=Engine)
T = TypeVar("T")
Opener = Callable[[], AbstractContextManager[E]]


@dataclass
class Fleet:
    """What the engines of one run are started with, and what is told of them at its end."""

    accelerator: str = "auto"
    pool_size: int | None = None
    peers: Peers = field(default_factory=lambda: Peers(UNPACKED))
    leftovers: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Why some engines could not be measured."""

    @contextlib.contextmanager
    def started(self, openers: Sequence[Opener[E]], *, loaded: bool = True) -> Iterator[list[E]]:
        """Those that can be had, side by side, at rest, with ``busybox`` in each from one archive; or (not ``loaded``)
        as soon as they answer, and with what is built into them."""
        with contextlib.ExitStack() as stack:
            archive = stack.enter_context(own_folder()) / "busybox.tar"
            archive.write_bytes(busybox_archive())
            engines: list[E] = []
            for opener in openers:
                try:
                    engine = stack.enter_context(opener())
                except NotAvailable as reason:
                    self.miss(str(reason))
                    continue
                if loaded:
                    engine.timed("load", "--input", str(archive))
                engines.append(engine)
            for engine in engines if loaded else ():
                engine.quiet()
            yield engines

    def each(self, openers: Sequence[Opener[E]], use: Callable[[E], T], *, loaded: bool = True) -> list[T]:
        """The same one after the other, each with the machine for itself; what ``use`` made of those that can be
        had."""
        made = []
        for opener in openers:
            with self.started([opener], loaded=loaded) as engines:
                made += [use(engine) for engine in engines]
        return made

    def miss(self, reason: str) -> None:
        if reason not in self.missing:
            self.missing.append(reason)

    def hypers(
        self, rungs: Sequence[str], kinds: Sequence[str], interpreter: Sequence[str] = (), *, ready: bool = True
    ) -> list[Opener[HyperEngine]]:
        """Each rung with each kind of kernel, which this machine must have."""
        found = kernels()
        return [partial(self._hyper, Rung(rung, found[kind]), interpreter, ready) for kind in kinds for rung in rungs]

    def all(self, rungs: Sequence[str], kinds: Sequence[str]) -> list[Opener[Engine]]:
        """The same, and Docker and Podman."""
        return [*self.hypers(rungs, kinds), *self.others()]

    def others(self) -> list[Opener[Engine]]:
        return [self.docker, self.podman]

    def docker(self) -> AbstractContextManager[Engine]:
        return docker_engine(self.peers, self.leftovers)

    def podman(self) -> AbstractContextManager[Engine]:
        return podman_engine(self.peers, self.leftovers)

    def _hyper(self, rung: Rung, interpreter: Sequence[str], ready: bool) -> AbstractContextManager[HyperEngine]:
        accelerator = self._accelerator(rung.kernel)
        return hyper_engine(rung, accelerator, self.pool_size, self.leftovers, interpreter=interpreter, ready=ready)

    def _accelerator(self, kernel: Kernel) -> str:
        """What "auto" comes to: each new data root would boot a guest to find out."""
        if self.accelerator == "auto":
            with hyper_engine(Rung("cold", kernel), "auto", None, self.leftovers) as engine:
                self.accelerator = str(engine.info()["accelerator"])
        return self.accelerator


def busybox_archive() -> bytes:
    """``docker save``'s form of the same busybox that hyperd has built in."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    environment = [change.removeprefix("ENV ") for change in CHANGES if change.startswith("ENV ")]
    made = image(root_tar(BUSYBOX.read_bytes(), applets), Cmd=["sh"], Env=environment)
    return docker_archive({"busybox:latest": made})
