"""Where sandboxes start from: a template is made behind the first starts, kept for the next daemon, and given up when
it is no good any more; whatever happens, sandboxes are to be had."""

from __future__ import annotations

import asyncio
import os

import pytest
from tests.unit.sandboxes.world import MARK_AT, MIB, World, ready, until

from hyper.errors import FailedPrecondition, HyperError, ResourceExhausted, Unavailable
from hyper.hypervisors.fake import FakeVmm
from hyper.sandboxes import source as source_module
from hyper.sandboxes import template, templates
from hyper.sandboxes.source import Sandbox, SandboxSource
from hyper.system import memory_files


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again later is tried again at once."""
    monkeypatch.setattr(templates, "_RETRY_S", 0.0)


def state(source: SandboxSource) -> str:
    return source.describe().template


def mark(world: World, sandbox: Sandbox) -> bytes:
    memory = world.machine(sandbox.id).memory
    return b"" if memory is None else memory[MARK_AT : MARK_AT + 4]


# -- making it


async def test_it_is_made_behind_the_first_starts(world: World) -> None:
    world.faults["rehearse"] = "hang"
    rehearsing = world.reach("rehearse")
    source = world.source(templates=True)
    await source.open()
    await rehearsing.wait()
    assert state(source) == "being made"
    first = await source.acquire(world.request())
    assert first.rung == "cold"
    builder = next(one for one in world.host.machines.values() if one.spec.sandbox_id != first.id)
    assert builder.deferred, "who makes it lets everybody else go first"
    assert world.records == [first.record], "it is nobody's sandbox"


async def test_clones_go_on_from_it_and_are_told_who_they_are(world: World) -> None:
    source = world.source(templates=True)
    await ready(source)
    assert world.alive() == [] and world.directories() == [], "its own machine has gone"
    one, other = await world.enough(source, 2)
    assert one.rung == other.rung == "template" and mark(world, one) == mark(world, other) == b"mark"
    assert set(one.timings) == {"vmm", "wake", "configure"}
    told = [world.agent(sandbox.id).configured for sandbox in (one, other)]
    assert all(configuration is not None and configuration.hostname == "box" for configuration in told)
    entropy = {configuration.entropy for configuration in told if configuration is not None}
    assert len(entropy) == 2 and all(len(bytes_ or b"") >= 32 for bytes_ in entropy)
    assert world.agent(one.id).skipped > 0, "the template's agent has used streams"
    assert one.record.cloned and world.records == [one.record, other.record]


async def test_clones_do_not_see_each_other_nor_change_it(world: World) -> None:
    source = world.source(templates=True)
    await ready(source)
    one, other = await world.enough(source, 2)
    memory = world.machine(one.id).memory
    assert memory is not None
    memory[MARK_AT : MARK_AT + 4] = b"evil"
    assert mark(world, other) == b"mark"
    await one.destroy(graceful=False)
    assert mark(world, await source.acquire(world.request())) == b"mark"


async def test_one_whose_memory_is_shared_has_a_copy_of_its_own(world: World) -> None:
    source = world.source(templates=True)
    await ready(source)
    shared = await source.acquire(world.request(shared_memory=True))
    file = world.machine(shared.id).spec.memory_file
    assert file is not None and file.shared and shared.rung == "template" and mark(world, shared) == b"mark"
    memory = world.machine(shared.id).memory
    assert memory is not None
    memory[MARK_AT : MARK_AT + 4] = b"mine"
    assert mark(world, await source.acquire(world.request())) == b"mark"


async def test_the_template_itself_knows_no_network_and_nobodys_name(world: World) -> None:
    source = world.source(templates=True)
    await ready(source)
    [builder] = world.agents
    assert builder.configured is not None
    assert (builder.configured.hostname, builder.configured.interfaces) == ("template", [])
    assert builder.released and len(world.rehearsed) == 1


# -- keeping it


async def test_the_next_daemon_loads_it_and_makes_none(world: World) -> None:
    first = world.source(templates=True)
    await ready(first)
    made = state(first)
    assert "made in" in made
    await world.kept()
    await first.close()
    second = world.source(templates=True)
    launched = len(world.host.machines)
    await ready(second)
    assert state(second) == f"{made.partition(', made')[0]}, loaded" and len(world.host.machines) == launched
    sandbox = await second.acquire(world.request())
    assert sandbox.rung == "template" and mark(world, sandbox) == b"mark"


@pytest.mark.parametrize("when", ["between two daemons", "while a daemon runs"])
async def test_another_kernel_or_agent_makes_another(world: World, when: str) -> None:
    source = world.source(templates=True)
    await ready(source)
    kept = await world.kept()
    running = await source.acquire(world.request())
    (world.folder / "image").write_text("another")
    if when == "between two daemons":
        await source.close()
        source = world.source(templates=True)
        await source.open()
    else:
        assert (await source.acquire(world.request())).rung == "cold", "nobody starts from the old one"
    await until(lambda: "made in" in state(source) and kept[:12] not in state(source))
    await until(lambda: len(world.templates()) == 1 and kept not in world.templates()[0])
    assert (await source.acquire(world.request())).rung == "template"
    assert mark(world, running) == b"mark", "those of the old one run on"


async def test_what_it_depends_on_may_be_missing_for_a_while(world: World) -> None:
    source = world.source(templates=True)
    await ready(source)
    (world.folder / "image").rename(world.folder / "away")
    with pytest.raises(FailedPrecondition, match="image cannot be opened"):
        await source.acquire(world.request())
    assert state(source).startswith("none: what it depends on cannot be read")
    (world.folder / "away").rename(world.folder / "image")
    assert (await source.acquire(world.request())).rung == "template"


@pytest.mark.parametrize("file", ["memory", "state", "manifest.json"])
async def test_a_damaged_one_is_refused_with_the_reason_and_made_anew(
    world: World, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = world.source(templates=True)
    await ready(first)
    key = await world.kept()
    await first.close()
    path = world.folder / "templates" / key / file
    os.truncate(path, path.stat().st_size - 1)
    second = world.source(templates=True)
    await ready(second)
    assert f"template {key[:12]} is refused" in caplog.text or "a template is refused" in caplog.text
    assert "made in" in state(second) and (await second.acquire(world.request())).rung == "template"
    assert await world.kept() == key
    await second.close()
    third = world.source(templates=True)
    await ready(third)
    assert "loaded" in state(third)


async def test_without_room_on_disk_it_is_used_all_the_same(world: World) -> None:
    (world.folder / "templates").touch()
    source = world.source(templates=True)
    await ready(source)
    await until(lambda: "not kept on disk (the template cannot be kept in" in state(source))
    assert (await source.acquire(world.request())).rung == "template"


# -- when it goes wrong


@pytest.mark.parametrize("step", ["connect", "configure", "rehearse"])
async def test_one_that_cannot_be_made_is_told_and_tried_again(world: World, step: str) -> None:
    world.next[step] = [Unavailable("the guest has a headache")]
    source = world.source(templates=True)
    await source.open()
    await until(lambda: state(source).startswith("none: ") and "the guest has a headache" in state(source))
    assert (world.alive(), world.directories(), world.templates()) == ([], [], [])
    assert (await source.acquire(world.request())).rung == "cold"
    await until(lambda: "made in" in state(source))
    assert (await source.acquire(world.request())).rung == "template"


async def test_what_could_not_be_made_is_not_tried_again_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_RETRY_S", 3600.0)
    world.faults["rehearse"] = Unavailable("no")
    source = world.source(templates=True)
    await source.open()
    await until(lambda: state(source) == "none: no")
    for _ in range(3):
        assert (await source.acquire(world.request())).rung == "cold"
    assert len(world.host.machines) == 4


async def test_a_hypervisor_that_cannot_save_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "Savable", str)  # which no VMM is
    source = world.source(templates=True)
    await source.open()
    await until(lambda: state(source) == "none: this hypervisor cannot save a machine")
    assert world.alive() == []


async def test_no_memory_for_it_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str, size_bytes: int) -> int:
        raise ResourceExhausted("no memory file can be made: Cannot allocate memory")

    monkeypatch.setattr(memory_files, "create", full)
    source = world.source(templates=True)
    await source.open()
    await until(lambda: "Cannot allocate memory" in state(source))
    assert (await source.acquire(world.request())).rung == "cold"


async def test_a_state_that_is_refused_costs_one_clone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def save(self: FakeVmm, state_fd: int) -> None:
        os.write(state_fd, b"another hypervisor's state")

    with monkeypatch.context() as broken:
        broken.setattr(FakeVmm, "save", save)
        source = world.source(templates=True)
        await ready(source)
        await world.kept()
        assert (await source.acquire(world.request())).rung == "cold"
        assert state(source) == "none: the last one did not work (this is no state of the fake's)"
        assert world.templates() == []
    assert (await source.acquire(world.request())).rung == "cold", "another is begun behind this"
    await until(lambda: "made in" in state(source))
    assert (await source.acquire(world.request())).rung == "template"


FAILS = Unavailable("it did not answer")


async def test_a_clone_that_does_not_come_up_is_no_reason_yet_but_three_in_a_row_are(world: World) -> None:
    source = world.source(templates=True)
    await ready(source)
    for step in ("connect", "configure"):
        for _ in range(2):
            world.next[step] = [FAILS]
            sandbox = await source.acquire(world.request())
            assert sandbox.rung == "cold" and "MiB" in state(source)
            await sandbox.destroy(graceful=False)
        assert (await source.acquire(world.request())).rung == "template"
    for _ in range(3):
        assert "MiB" in state(source)
        world.next["connect"] = [FAILS]
        await source.acquire(world.request())
    assert (
        state(source)
        == "none: the last one did not work (the VM's agent did not answer within 30 s (it did not answer))"
    )


@pytest.mark.parametrize("error", [ResourceExhausted("no"), OSError("no")])
async def test_the_hosts_own_troubles_are_not_the_templates(world: World, error: HyperError | OSError) -> None:
    source = world.source(templates=True)
    await ready(source)
    for _ in range(5):
        world.next["connect"] = [error]
        assert (await source.acquire(world.request())).rung == "cold"
    assert "MiB" in state(source)


async def test_a_clone_that_hangs_falls_through_in_bounded_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_CLONE_S", 0.05)
    source = world.source(templates=True)
    await ready(source)
    world.next["configure"] = ["hang"]
    sandbox = await source.acquire(world.request())
    assert sandbox.rung == "cold" and world.alive() == [sandbox.id]


async def test_cancelling_a_start_from_it_leaves_nothing_and_keeps_it(world: World) -> None:
    source = world.source(templates=True)
    await ready(source)
    for step in ("connect", "configure"):
        world.next[step] = ["hang"]
        hanging = world.reach(step)
        task = asyncio.create_task(source.acquire(world.request()))
        await hanging.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (world.alive(), world.directories(), world.records) == ([], [], [])
    assert (await source.acquire(world.request())).rung == "template"


# -- its life


async def test_a_fat_one_is_slimmed_behind_a_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "_SLACK_BYTES", 8 * MIB)
    source = world.source(templates=True)
    await ready(source)
    glutton = await source.acquire(world.request())
    machine = world.machine(glutton.id)
    assert machine.memory is not None and machine.spec.memory_file is not None
    old = os.stat(f"/proc/self/fd/{_template_fd(source)}").st_ino
    machine.memory[64 * MIB : 80 * MIB] = b"x" * (16 * MIB)
    assert (await source.acquire(world.request())).rung == "template"
    await until(lambda: os.fstat(_template_fd(source)).st_ino != old)
    assert memory_files.stored_bytes(_template_fd(source)) < 8 * MIB
    assert machine.memory[64 * MIB : 80 * MIB] == b"x" * (16 * MIB), "the old one's clones keep what they have"
    assert mark(world, await source.acquire(world.request())) == b"mark"


def _template_fd(source: SandboxSource) -> int:
    assert source._templates is not None and source._templates._template is not None
    return source._templates._template.memory_fd


@pytest.mark.parametrize("step", ["connect", "configure", "rehearse"])
async def test_closing_while_it_is_made_leaves_nothing(world: World, step: str) -> None:
    world.faults[step] = "hang"
    hanging = world.reach(step)
    source = world.source(templates=True)
    await source.open()
    await hanging.wait()
    await source.close()
    assert (world.alive(), world.directories(), world.templates()) == ([], [], [])


async def test_a_killed_daemons_half_made_one_is_a_stray(world: World) -> None:
    world.next["rehearse"] = ["hang"]
    rehearsing = world.reach("rehearse")
    await world.source(templates=True).open()
    await rehearsing.wait()
    [builder] = world.alive()
    successor = world.source(templates=True)
    assert await successor.reap_strays(frozenset()) == [builder]
    assert (world.alive(), world.directories()) == ([], [])


async def test_what_is_left_of_a_save_that_was_cut_short_goes_with_the_next(world: World) -> None:
    folder = world.folder / "templates"
    (folder / ".new-abc").mkdir(parents=True)
    folder.chmod(0o700)
    source = world.source(templates=True)
    await ready(source)
    await world.kept()


async def test_switched_off_every_sandbox_is_booted(world: World) -> None:
    source = world.source(templates=False, pool=3)
    await source.open()
    assert (await source.acquire(world.request())).rung == "cold" and len(world.host.machines) == 1
    assert state(source) == "switched off: every sandbox is booted"
    assert source.describe().pool == "switched off"
    assert not (world.folder / "templates").exists()
