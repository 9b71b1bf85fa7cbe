"""kill -9 and SIGTERM at every time of templates and pools with real VMs: what is nobody's goes, what runs runs on."""

from __future__ import annotations

import random
import shutil
import subprocess
import time

import pytest
from tests.hyperd import Hyperd, needs_docker_cli, running_hyperd
from tests.templates import SMALL, run, rung, sandbox, settled, status, until, vmms

pytestmark = pytest.mark.vm


def test_killed_at_any_time_nothing_is_left_and_what_ran_runs_on() -> None:
    needs_docker_cli()
    with running_hyperd("--pool-size", "3", *SMALL) as daemon:
        # While the template is made.
        until(lambda: len(vmms(daemon)) == 1, lambda: str(vmms(daemon)))
        builder = vmms(daemon)
        daemon.kill()
        assert vmms(daemon) == builder, "VMMs do not die with their daemon"
        daemon.start()
        assert not builder.keys() & vmms(daemon).keys()

        # While the pool fills, with a container that runs.
        until(lambda: status(daemon)["Pool"][0] in "12", lambda: str(status(daemon)))
        container = daemon.door.out("run", "-d", "busybox", "sh", "-c", "echo before; exec sleep 1000")
        assert rung(daemon, container) in ("pool", "template")
        running = sandbox(daemon, container)
        daemon.kill()
        before = vmms(daemon)
        assert running in before and len(before) >= 2
        daemon.start()
        assert before.keys() & vmms(daemon).keys() == {running}
        settled(daemon)
        assert daemon.door.out("exec", container, "hostname") == container[:12]
        assert daemon.door.out("logs", container) == "before"

        # With a full pool, clones under way, and one that was made bigger.
        large = daemon.door.out("run", "-d", "--memory", "600m", "busybox", "sleep", "1000")
        starting = [daemon.door.popen("run", "--rm", "busybox", "true", stderr=subprocess.DEVNULL) for _ in range(3)]
        until(lambda: len(vmms(daemon)) >= 5, lambda: str(vmms(daemon)))
        kept_ids = {running, sandbox(daemon, large)}
        daemon.kill()
        for client in starting:
            client.wait()
        before = vmms(daemon)
        daemon.start()
        live = daemon.door.out("ps", "-q", "--no-trunc").split()
        assert {container, large} <= set(live)
        adopted = {sandbox(daemon, one) for one in live}
        assert kept_ids <= adopted and before.keys() & vmms(daemon).keys() <= adopted
        limit = daemon.door.out("exec", large, "cat", "/sys/fs/cgroup/memory.max")
        assert int(limit) == 600 << 20
        settled(daemon)
        assert len(vmms(daemon)) == len(adopted) + 3
        daemon.door.docker("rm", "-f", container, large)


def started_without_a_template(daemon: Hyperd) -> None:
    shutil.rmtree(daemon.data_root / "templates", ignore_errors=True)
    daemon.start()


@pytest.mark.slow
def test_killed_at_random_moments_again_and_again() -> None:
    needs_docker_cli()
    chance = random.Random(20261125)
    with running_hyperd("--pool-size", "2", *SMALL) as daemon:
        settled(daemon)
        container = daemon.door.out("run", "-d", "--network", "none", "busybox", "sleep", "10000")
        mine = sandbox(daemon, container)
        for _ in range(20):
            daemon.kill()
            before = vmms(daemon)
            if chance.random() < 0.5:
                started_without_a_template(daemon)
            else:
                daemon.start()
            assert before.keys() & vmms(daemon).keys() == {mine}
            time.sleep(chance.uniform(0, 3))  # the moment, whatever happens then
        assert daemon.door.out("exec", container, "echo", "still here") == "still here"
        settled(daemon)
        assert len(vmms(daemon)) == 3
        assert run(daemon) == "pool"
        daemon.door.docker("rm", "-f", container)


def test_told_to_stop_at_any_time_it_leaves_nothing() -> None:
    needs_docker_cli()
    with running_hyperd("--pool-size", "2", *SMALL) as daemon:
        run(daemon)

        def stopped(what: str) -> None:
            daemon.stop()
            assert vmms(daemon) == {} and daemon.leftovers() == [], what

        stopped("with what there was then")

        started_without_a_template(daemon)
        until(lambda: vmms(daemon), lambda: str(status(daemon)))
        assert status(daemon)["Template"] == "being made"
        stopped("while the template is made")

        daemon.start()
        until(lambda: status(daemon)["Pool"].startswith("1 "), lambda: str(status(daemon)))
        stopped("while the pool fills")

        daemon.start()
        settled(daemon)
        daemon.door.docker("run", "-d", "--stop-signal", "KILL", "busybox", "sleep", "1000")
        starting = [daemon.door.popen("run", "--rm", "busybox", "true", stderr=subprocess.DEVNULL) for _ in range(4)]
        until(lambda: len(vmms(daemon)) >= 4, lambda: str(vmms(daemon)))
        stopped("while containers start, and one runs")
        for client in starting:
            client.wait()
