"""Processes that outlive the daemon: spawned under their own user, watched by pidfd."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyper.errors import NotFound, Unavailable
from hyper.system import processes
from hyper.system.processes import Process

UID = 1_960_000_001


async def spawn(*argv: str) -> Process:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        return await Process.spawn(argv, uid=UID, pass_fds=(), stdout=null, stderr=null)
    finally:
        os.close(null)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


async def test_it_runs_under_its_user_alone_in_a_session_of_its_own() -> None:
    process = await spawn("sleep", "60")
    assert processes.user_ids(process.pid) == {UID}
    assert os.getsid(process.pid) == process.pid
    assert status_of(process.pid)["Groups"] == ""
    assert status_of(process.pid)["CapEff"] == "0" * 16
    process.kill()
    assert (await process.wait()).signal == 9
    process.close()


async def test_its_exit_status_is_told_to_every_waiter() -> None:
    process = await spawn("sh", "-c", "exit 3")
    ends = await asyncio.gather(process.wait(), process.wait())
    assert {end.code for end in ends} == {3} and str(ends[0]) == "exited with status 3"
    process.kill()  # nothing to do
    process.close()


async def test_a_missing_program_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="/nonexistent cannot be started"):
        await spawn("/nonexistent")


async def test_a_cancelled_spawn_leaves_no_process() -> None:
    marker = f"60.0{os.getpid()}"
    task = asyncio.create_task(spawn("sleep", marker))
    await asyncio.sleep(0)  # until its thread was asked for
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(marker in processes.command_line(pid) for pid in processes.all_pids())


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


async def test_a_process_of_an_earlier_daemon_is_opened_only_if_it_is_the_same(
    sleeper: subprocess.Popen[bytes],
) -> None:
    started = processes.start_time(sleeper.pid)
    assert started is not None
    boot = processes.host_boot_id()
    for pid, when, boot_id in ((sleeper.pid, started + 1, boot), (sleeper.pid, started, "x"), (1 << 22, started, boot)):
        with pytest.raises(NotFound):
            Process.open(pid, when, boot_id)
    process = Process.open(sleeper.pid, started, boot)
    process.kill()
    await process.wait()
    process.close()
    with pytest.raises(NotFound):
        Process.open(sleeper.pid, started, boot)


async def test_letting_go_does_not_end_it() -> None:
    process = await spawn("sleep", "60")
    pid, started = process.pid, process.start_time
    process.close()
    again = Process.open(pid, started, processes.host_boot_id())
    assert not again.ended
    again.kill()
    await again.wait()
    again.close()
