"""A rehearsal: a whole life of a container in a sandbox, of which nothing is left."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.unit.engine.world import Guest, World
from tests.unit.images.disks import extract

from hyper.engine import rehearsal
from hyper.engine.engine import LiveEngine
from hyper.engine.rehearsal import Rehearsal, rehearsal_image
from hyper.errors import HyperError, NotFound, ResourceExhausted, Unavailable
from hyper.images.writable import WritableDisks
from hyper.sandboxes.source import Sandbox, SandboxConfig, SandboxRequest


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "agent"
    path.write_bytes(b"\x7fELF" + bytes(9_000))
    return path


# -- its image


def test_the_image_has_the_program_and_places_to_mount(agent: Path, tmp_path: Path) -> None:
    if shutil.which("fsck.erofs") is None:
        pytest.skip("no fsck.erofs on this machine (Debian: erofs-utils)")
    image = rehearsal_image(agent, tmp_path / "boot")
    found = extract(image, tmp_path / "found")
    assert found.pop("hyper-agent") == ("file", 0o755, agent.read_bytes().decode("latin-1"))
    assert sorted(found) == ["dev", "etc", "proc", "sys"]


def test_the_image_is_made_once_a_program(agent: Path, tmp_path: Path) -> None:
    boot = tmp_path / "boot"
    boot.mkdir()
    (boot / "initramfs-of-somebody").touch()
    (boot / "rehearsal-cut-short.new").touch()
    image = rehearsal_image(agent, boot)
    made = image.stat()
    assert rehearsal_image(agent, boot) == image and image.stat() == made
    agent.write_bytes(b"\x7fELF, the next")
    other = rehearsal_image(agent, boot)
    assert other != image
    assert {path.name for path in boot.iterdir()} == {"initramfs-of-somebody", other.name}


def test_without_room_for_the_image_nothing_is_left(agent: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    boot = tmp_path / "boot"
    boot.mkdir()
    agent.write_bytes(os.urandom(1 << 20))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", boot], check=True)
    try:
        with pytest.raises(ResourceExhausted, match="no space left"):
            rehearsal_image(agent, boot)
        assert list(boot.iterdir()) == []
    finally:
        subprocess.run(["umount", boot], check=True)
    boot.rmdir()
    boot.touch()
    with pytest.raises(ResourceExhausted, match=r"cannot be made in .*boot: File exists"):
        rehearsal_image(agent, boot)


# -- the container


@pytest.fixture
async def sandbox(world: World, engine: LiveEngine) -> Sandbox:
    return await world.daemons[-1].source.acquire(SandboxRequest("", None, None, SandboxConfig("x")))


@pytest.fixture
async def rehearse(world: World, engine: LiveEngine, agent: Path, tmp_path: Path) -> Rehearsal:
    disks = await WritableDisks.open(world.folder / "data")
    return Rehearsal(agent, tmp_path / "boot", disks, 16 << 20, 1 << 30)


def runs(guest: Guest) -> None:
    """What the program does."""
    guest.print(b"rehearsed\n")
    guest.exit(0)


async def test_it_goes_through_a_whole_life_and_leaves_nothing(
    world: World, sandbox: Sandbox, rehearse: Rehearsal
) -> None:
    world.faults["container.start"] = runs
    await rehearse(sandbox)
    methods = [method for method, _ in world.guests[sandbox.id].model.requests]
    assert methods == ["sandbox.configure", "container.create", "container.start", "container.delete"]
    [spec] = [params["spec"] for method, params in world.guests[sandbox.id].model.requests if "spec" in params]
    assert spec["process"]["args"] == ["/hyper-agent", "--rehearse"]
    assert sandbox.record.disks == () and sandbox.agent.on_event is None
    assert world.container_files() == set()
    assert not any(machine.disks for machine in world.host.machines.values())


@pytest.mark.parametrize("method", ["container.create", "container.start", "container.delete"])
async def test_a_guest_that_refuses_fails_it_and_leaves_no_disk(
    world: World, sandbox: Sandbox, rehearse: Rehearsal, method: str
) -> None:
    world.faults["container.start"] = runs
    world.faults[method] = NotFound("there is no such thing")
    with pytest.raises(HyperError, match="no such thing"):
        await rehearse(sandbox)
    assert world.container_files() == set() and sandbox.agent.on_event is None


@pytest.mark.parametrize("method", ["container.create", "container.start"])
async def test_a_guest_that_hangs_fails_it_in_bounded_time(
    world: World, sandbox: Sandbox, rehearse: Rehearsal, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "_LIMIT_S", 0.2)
    world.faults[method] = "silent"
    with pytest.raises(Unavailable, match=r"did not get through its rehearsal within 0\.2 s"):
        await rehearse(sandbox)
    assert world.container_files() == set()


async def test_a_program_that_never_ends_fails_it_too(
    world: World, sandbox: Sandbox, rehearse: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "_LIMIT_S", 0.2)
    with pytest.raises(Unavailable, match="did not get through"):
        await rehearse(sandbox)


async def test_a_vm_that_dies_meanwhile_is_told_at_once(world: World, sandbox: Sandbox, rehearse: Rehearsal) -> None:
    world.faults["container.start"] = lambda guest: world.spawn(world.host.crash(guest.sandbox_id, "it was shot"))
    with pytest.raises(Unavailable):
        await rehearse(sandbox)
    assert world.container_files() == set()
