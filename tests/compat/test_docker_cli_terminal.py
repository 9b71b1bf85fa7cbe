"""``docker run -it`` in a real terminal, driven through tmux: line editing, ctrl-C, resize, detach, exit."""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
from tests.hyperd import Door, needs_docker_cli

pytestmark = pytest.mark.usefixtures("cli")


@pytest.fixture(scope="module")
def cli() -> None:
    needs_docker_cli()
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not on PATH")


class Terminal:
    """A tmux server of its own with one window."""

    def __init__(self, door: Door, columns: int, rows: int) -> None:
        self._label = f"hyper-test-{secrets.token_hex(4)}"
        self.tmux(
            "-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(rows), "env", "-i", "TERM=xterm", "sh"
        )
        self.tmux("set-option", "-g", "remain-on-exit", "on")
        for name in ("PATH", "DOCKER_HOST", "DOCKER_CONFIG", "HOME"):
            self.type(f"export {name}={shlex.quote(door.environment.get(name, '/root'))}\n")
        self.type("PS1='host> '; clear\n")
        self.expect(r"host>$")

    def tmux(self, *arguments: str) -> str:
        result = subprocess.run(["tmux", "-L", self._label, *arguments], capture_output=True, text=True, check=True)
        return result.stdout

    def type(self, text: str) -> None:
        for part in re.split(r"(\n)", text):
            if part == "\n":
                self.keys("Enter")
            elif part:
                self.tmux("send-keys", "-l", part)

    def keys(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p").rstrip()

    def expect(self, pattern: str, timeout_s: float = 30) -> str:
        """Until the screen matches."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            screen = self.screen()
            if re.search(pattern, screen, re.MULTILINE):
                return screen
            assert time.monotonic() < deadline_s, f"no {pattern!r} on the screen:\n{screen}"
            time.sleep(0.05)

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self._label, "kill-server"], capture_output=True, check=False)


@contextlib.contextmanager
def terminal(door: Door, columns: int = 80, rows: int = 24) -> Iterator[Terminal]:
    opened = Terminal(door, columns, rows)
    try:
        yield opened
    finally:
        opened.close()


def test_a_shell_behaves(door: Door) -> None:
    with door.name() as name, terminal(door) as screen:
        screen.type(f"docker run -it --rm --name {name} -e PS1='in> ' busybox sh; echo code=$?\n")
        screen.expect(r"in> ?$")
        screen.type("echo hellp")
        screen.keys("BSpace")
        screen.type("o\n")
        screen.expect(r"^hello$")
        screen.type("sleep 100\n")
        time.sleep(0.3)
        screen.keys("C-c")
        screen.expect(r"\^C\s+in> ?$")
        screen.type("stty size\n")
        screen.expect(r"^24 80$")
        screen.tmux("resize-window", "-x", "100", "-y", "30")
        screen.type("clear\n")
        deadline_s = time.monotonic() + 20
        while not re.search(r"^30 100$", screen.screen(), re.MULTILINE):
            assert time.monotonic() < deadline_s, screen.screen()
            screen.type("stty size\n")
            time.sleep(0.3)
        screen.type("exit 5\n")
        screen.expect(r"code=5")


def test_ctrl_p_ctrl_q_leaves_the_container_running(door: Door) -> None:
    with door.name() as name, terminal(door) as screen:
        screen.type(f"docker run -it --name {name} -e PS1='in> ' busybox sh; echo back\n")
        screen.expect(r"in> ?$")
        screen.keys("C-p")
        screen.keys("C-q")
        screen.expect(r"^back$|back$")
        assert door.out("inspect", "-f", "{{.State.Running}}", name) == "true"
        screen.type(f"clear; docker attach {name}; echo again\n")
        time.sleep(0.5)
        screen.type("echo still here\n")
        screen.expect(r"^still here$")
        screen.type("exit\n")
        screen.expect(r"again$")
        assert door.out("inspect", "-f", "{{.State.Running}}", name) == "false"


def test_exec_in_a_terminal(door: Door) -> None:
    with door.name() as name, terminal(door, columns=90, rows=20) as screen:
        door.docker("run", "-d", "--name", name, "busybox", "sleep", "100")
        screen.type(f"docker exec -it -e PS1='ex> ' {name} sh; echo code=$?\n")
        screen.expect(r"ex> ?$")
        screen.type("tty; stty size\n")
        screen.expect(r"/dev/pts/\d+")
        screen.expect(r"^20 90$")
        screen.type("exit 3\n")
        screen.expect(r"code=3")


def test_custom_detach_keys(door: Door) -> None:
    with door.name() as name, terminal(door) as screen:
        screen.type(f"docker run -it --detach-keys ctrl-x,x --name {name} -e PS1='in> ' busybox sh; echo back\n")
        screen.expect(r"in> ?$")
        screen.keys("C-x")
        screen.keys("x")
        screen.expect(r"back$")
        assert door.out("inspect", "-f", "{{.State.Running}}", name) == "true"
