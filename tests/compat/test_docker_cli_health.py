"""Health checks with the real docker CLI, over real VMs."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Callable

import pytest
from tests.hyperd import Door, Hyperd, needs_docker_cli

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("cli")]


@pytest.fixture(scope="module")
def cli() -> None:
    needs_docker_cli()


def wait_until(true: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def health(door: Door, name: str) -> str:
    return door.out("inspect", "-f", "{{.State.Health.Status}}", name)


def test_a_container_is_starting_then_healthy_then_unhealthy(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker(
            *("run", "-d", "--name", name, "--health-cmd", "cat /well && echo fine", "--health-interval", "200ms"),
            *("--health-retries", "1", "--health-start-period", "60s", "--health-start-interval", "200ms"),
            *("busybox", "sleep", "1000"),
        )
        listed = ("ps", "--filter", f"name={name}", "--format", "{{.Status}}")
        assert door.out(*listed).endswith(" (health: starting)")
        assert door.out(*listed, "--filter", "health=starting") != ""
        door.docker("exec", name, "touch", "/well")
        wait_until(lambda: health(door, name) == "healthy")
        assert door.out(*listed, "--filter", "health=healthy").endswith(" (healthy)")
        [last] = json.loads(door.out("inspect", "-f", "{{json .State.Health.Log}}", name))[-1:]
        assert (last["ExitCode"], last["Output"]) == (0, "fine\n")
        door.docker("exec", name, "rm", "/well")
        wait_until(lambda: health(door, name) == "unhealthy")
        assert door.out(*listed, "--filter", "health=unhealthy").endswith(" (unhealthy)")
        assert door.out(*listed, "--filter", "health=none") == ""
        log = json.loads(door.out("inspect", "-f", "{{json .State.Health.Log}}", name))
        assert len(log) <= 5 and "can't open '/well'" in log[-1]["Output"]
        told = door.out(
            *("events", "--since", "10m", "--until", str(int(time.time()) + 1), "--filter", f"container={name}"),
            *("--filter", "event=health_status", "--format", "{{.Action}}"),
        )
        assert told.splitlines() == ["health_status: healthy", "health_status: unhealthy"]


def test_a_check_that_hangs_is_killed(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker(
            *("run", "-d", "--name", name, "--health-cmd", "echo hanging; exec sleep 1000", "--health-interval", "1s"),
            *("--health-timeout", "1s", "--health-retries", "1", "busybox", "sleep", "1000"),
        )
        wait_until(lambda: health(door, name) == "unhealthy")
        log = json.loads(door.out("inspect", "-f", "{{json .State.Health.Log}}", name))
        assert log[0]["ExitCode"] == -1
        assert log[0]["Output"] == "Health check exceeded timeout (1s): hanging\n"
        assert door.out("exec", name, "ps").count("sleep 1000") <= 2, "its own, and a check that runs"


def test_an_images_check_is_used_and_switched_off(hyperd: Hyperd) -> None:
    door = hyperd.door
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w"):
        pass
    change = 'HEALTHCHECK --interval=7s --retries=2 CMD ["/bin/check"]'
    door.docker("import", "--change", change, "--change", 'CMD ["x"]', "-", "checked", input=archive.getvalue())
    with door.name() as name:
        door.docker("create", "--name", name, "--health-retries", "4", "checked")
        found = json.loads(door.out("inspect", name))[0]["Config"]["Healthcheck"]
        assert found == {"Test": ["CMD", "/bin/check"], "Interval": 7_000_000_000, "Retries": 4}
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "--no-healthcheck", "busybox", "sleep", "1000")
        shown = json.loads(door.out("inspect", name))[0]
        assert shown["Config"]["Healthcheck"] == {"Test": ["NONE"]}
        assert "Health" not in shown["State"]
        assert "(" not in door.out("ps", "--filter", f"name={name}", "--format", "{{.Status}}")
        assert door.out("ps", "--filter", f"name={name}", "--filter", "health=none", "-q") != ""


def test_nothing_is_checked_while_paused(hyperd: Hyperd) -> None:
    door = hyperd.door
    with door.name() as name:
        door.docker(
            *("run", "-d", "--name", name, "--health-cmd", "true", "--health-interval", "100ms"),
            *("busybox", "sleep", "1000"),
        )
        wait_until(lambda: health(door, name) == "healthy")
        door.docker("pause", name)
        shown = ("inspect", "-f", "{{json .State.Health}}", name)
        kept = door.out(*shown)
        time.sleep(0.5)  # five checks would have been made
        assert door.out(*shown) == kept
        door.docker("unpause", name)
        wait_until(lambda: door.out(*shown) != kept)
        assert health(door, name) == "healthy"
