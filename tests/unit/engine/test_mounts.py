"""Which volumes and binds a container has, what its VM is shown of them, and what becomes of them at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.engine.world import World, config, until

from hyper.engine.engine import LiveEngine
from hyper.engine.model import Container, MountRequest, VolumesFrom
from hyper.errors import Conflict, InvalidArgument


def volume(name: str, target: str, **more: Any) -> MountRequest:
    return MountRequest(type="volume", source=name, target=target, **more)


def bind(source: Path, target: str, **more: Any) -> MountRequest:
    return MountRequest(type="bind", source=str(source), target=target, **more)


async def created(engine: LiveEngine, *requests: MountRequest, name: str | None = None, **more: Any) -> Container:
    container, _ = await engine.containers.create(config(mount_requests=requests, **more), name=name)
    return container


def names(engine: LiveEngine) -> set[str]:
    return {volume.name for volume in engine.volumes.list()}


async def test_volumes_are_made_and_are_in_use_until_the_container_is_gone(engine: LiveEngine) -> None:
    container = await created(engine, volume("data", "/d"), volume("", "/a"))
    anonymous, named = sorted(container.mounts, key=lambda mount: mount.destination)
    assert (named.name, named.anonymous, anonymous.anonymous) == ("data", False, True)
    assert names(engine) == {"data", anonymous.name}
    assert "com.docker.volume.anonymous" in engine.volumes.get(anonymous.name).labels
    for mount in container.mounts:
        with pytest.raises(Conflict, match=container.id):
            await engine.volumes.remove(mount.name, force=True)
    await engine.containers.remove(container.id, force=False)
    assert names(engine) == {"data", anonymous.name}
    assert (await engine.volumes.prune(lambda _: True))[0] == sorted([anonymous.name, "data"])


async def test_removing_with_volumes_takes_what_nobody_else_has(engine: LiveEngine) -> None:
    one = await created(engine, volume("data", "/d"), volume("", "/a"), name="one")
    origin = VolumesFrom(container="one", readonly=True, text="one:ro")
    two = await created(engine, volumes_from=(origin,))
    assert [mount.name for mount in two.mounts] == [mount.name for mount in one.mounts]
    assert not any(mount.writable for mount in two.mounts)
    await engine.containers.remove(one.id, force=False, volumes=True)
    assert len(names(engine)) == 2
    await engine.containers.remove(two.id, force=False, volumes=True)
    assert names(engine) == {"data"}


async def test_own_mounts_win_over_another_containers_and_over_the_images(engine: LiveEngine, tmp_path: Path) -> None:
    await created(engine, volume("old", "/d"), name="one")
    origin = VolumesFrom(container="one", readonly=False, text="one")
    container = await created(engine, bind(tmp_path, "/d"), volumes_from=(origin,), volumes=("/d", "/e"))
    assert [(mount.destination, mount.type) for mount in container.mounts] == [("/d", "bind"), ("/e", "volume")]


async def test_a_refused_create_leaves_no_volume(engine: LiveEngine, tmp_path: Path) -> None:
    for requests, words in (
        ((volume("", "/a"), volume("x", "/a")), "Duplicate mount point: /a"),
        ((volume("", "/a"), bind(tmp_path / "none", "/b")), "bind source path does not exist"),
        ((volume("", "/a"), volume("./x", "/b")), "includes invalid characters"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            await created(engine, *requests)
    with pytest.raises(InvalidArgument, match="No such container: nobody"):
        await created(engine, volumes_from=(VolumesFrom(container="nobody", readonly=False, text="nobody"),))
    await created(engine, name="taken")
    with pytest.raises(Conflict):
        await created(engine, volume("", "/a"), name="taken")
    assert names(engine) == set()
    assert len(engine.containers.list()) == 1


async def test_the_vm_is_shown_its_sources_and_the_guest_told_where(
    world: World, engine: LiveEngine, tmp_path: Path
) -> None:
    requests = (bind(tmp_path, "/h/deep", readonly=True, propagation="rslave"), volume("data", "/h"))
    container = await created(engine, *requests, tmpfs={"/h/t": ""})
    await engine.containers.start(container.id)
    [(data, host)] = world.shared
    assert data.source == Path(engine.volumes.get("data").mountpoint) and not data.readonly
    assert host.source == tmp_path and host.readonly and host.follow_host
    guest = world.guest.containers[container.id]
    assert guest["share"] == "hyper-share"
    told = [mount for mount in guest["spec"]["mounts"] if mount["destination"].startswith("/h")]
    assert [mount["destination"] for mount in told] == ["/h", "/h/t", "/h/deep"]
    assert told[0]["source"] == "/run/hyper/share/0" and told[2]["source"] == "/run/hyper/share/1"
    assert told[0]["options"] == ["rbind", "rprivate", "hyper.copy-up"]
    assert told[2]["options"] == ["rbind", "rprivate", "ro"]


async def test_a_volume_is_filled_at_the_first_start_only(world: World, engine: LiveEngine) -> None:
    container = await created(engine, volume("data", "/d"), volume("bare", "/b", no_copy=True))
    for first in (True, False):
        await engine.containers.start(container.id)
        mounts = {item["destination"]: item for item in world.guest.containers[container.id]["spec"]["mounts"]}
        assert ("hyper.copy-up" in mounts["/d"]["options"]) is first
        assert "hyper.copy-up" not in mounts["/b"]["options"]
        await engine.containers.kill(container.id, "KILL")
        await until(lambda: not world.alive())


async def test_a_server_that_ends_takes_its_container_with_it(world: World, engine: LiveEngine, tmp_path: Path) -> None:
    container = await created(engine, bind(tmp_path, "/d"))
    await engine.containers.start(container.id)
    waiting = engine.containers.wait(container.id, "not-running")
    [sandbox] = world.daemons[-1].source._maker.live.values()
    assert sandbox._file_server is not None
    sandbox._file_server._process.kill()
    assert "shared directories" in (await waiting).error
    await until(lambda: not world.alive())


async def test_the_next_daemon_goes_on_with_the_server_and_ends_it(
    world: World, engine: LiveEngine, tmp_path: Path
) -> None:
    container = await created(engine, bind(tmp_path, "/d"))
    await engine.containers.start(container.id)
    engine = await world.next_daemon()
    [sandbox] = world.daemons[-1].source._maker.live.values()
    server = sandbox._file_server
    assert server is not None and engine.containers.get(container.id).state.live
    await engine.containers.remove(container.id, force=True)
    assert server._process.ended
