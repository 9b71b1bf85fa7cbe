"""What the agent is told to run."""

from __future__ import annotations

from typing import Any

import pytest

from hyper.engine.model import Container, ContainerConfig, ExecConfig
from hyper.engine.runtime import DEFAULT_PATH, exec_process, merge_env, runtime_spec, security_options

GIB = 1 << 30


def container(**changes: Any) -> Container:
    config = ContainerConfig(image="i", hostname="box", **changes)
    return Container(id="a" * 64, name="one", created_ns=0, image_id="i", config=config, path="run", args=("it",))


def spec(**changes: Any) -> dict[str, Any]:
    return runtime_spec(container(**changes), default_memory_bytes=2 * GIB)


def test_the_environment_has_what_docker_adds_unless_it_is_set() -> None:
    assert spec(env=("A=b",))["process"]["env"] == [DEFAULT_PATH, "HOSTNAME=box", "A=b"]
    assert spec(tty=True)["process"]["env"] == [DEFAULT_PATH, "HOSTNAME=box", "TERM=xterm"]
    own = ("PATH=/mine", "HOSTNAME=other", "TERM=dumb")
    assert spec(env=own, tty=True)["process"]["env"] == list(own)
    assert spec(env=("HOSTNAME", "A", "B="))["process"]["env"] == [DEFAULT_PATH, "B="]


def test_merged_variables_keep_their_place_and_a_bare_name_removes() -> None:
    assert merge_env(("A=1", "B=1"), ("C=2", "A=2")) == ("A=2", "B=1", "C=2")
    assert merge_env(("A=1", "B=1"), ("A",)) == ("B=1",)
    assert merge_env(("A=x=y",)) == ("A=x=y",)


def test_the_process_is_what_was_asked_for() -> None:
    process = spec(tty=True, working_dir="/w", user="u:g", console_size=(24, 80))["process"]
    assert process["args"] == ["run", "it"] and process["cwd"] == "/w" and process["terminal"]
    assert process["user"]["username"] == "u:g"
    assert process["consoleSize"] == {"height": 24, "width": 80}
    plain = spec()["process"]
    assert (plain["cwd"], plain["user"]["username"]) == ("/", "0") and not plain.get("terminal")


def test_the_guest_holds_the_memory_limit_or_the_default() -> None:
    assert spec(memory_bytes=GIB)["linux"]["resources"]["memory"]["limit"] == GIB
    assert spec()["linux"]["resources"]["memory"]["limit"] == 2 * GIB


def test_processors_and_processes_are_limited_as_asked() -> None:
    resources = spec(nano_cpus=1_500_000_000, pids_limit=10)["linux"]["resources"]
    assert resources["cpu"]["quota"] / resources["cpu"]["period"] == 1.5
    assert resources["pids"]["limit"] == 10


def test_an_exec_has_the_containers_settings_under_its_own() -> None:
    outer = container(env=("A=1", "B=1"), working_dir="/w", user="u", cap_drop=("CHOWN",))
    process = exec_process(outer, ExecConfig(command=("x",), env=("A=2", "B")), (0, 0))
    assert process["args"] == ["x"]
    assert process["env"] == [DEFAULT_PATH, "HOSTNAME=box", "A=2"]
    assert (process["cwd"], process["user"]["username"]) == ("/w", "u")
    assert "CAP_CHOWN" not in process["capabilities"]["bounding"]
    own = exec_process(outer, ExecConfig(command=("x",), working_dir="/v", user="root", tty=True), (10, 20))
    assert (own["cwd"], own["user"]["username"], own["terminal"]) == ("/v", "root", True)
    assert "TERM=xterm" in own["env"] and own["consoleSize"] == {"height": 10, "width": 20}


@pytest.mark.parametrize("exec_privileged", [True, False])
def test_an_exec_can_have_more_than_its_container(exec_privileged: bool) -> None:
    process = exec_process(container(), ExecConfig(command=("x",), privileged=exec_privileged), (0, 0))
    assert ("CAP_SYS_ADMIN" in process["capabilities"]["bounding"]) is exec_privileged


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), (False, False, None)),
        (("no-new-privileges",), (True, False, None)),
        (("no-new-privileges:true",), (True, False, None)),
        (("no-new-privileges=false",), (False, False, None)),
        (("seccomp=unconfined",), (False, False, {})),
        (("seccomp=builtin", "systempaths=unconfined"), (False, True, None)),
        (("apparmor=unconfined", "label:disable"), (False, False, None)),
    ],
)
def test_security_options(values: tuple[str, ...], expected: tuple[bool, bool, object]) -> None:
    options = security_options(values)
    assert (options.no_new_privileges, options.unmasked, options.seccomp) == expected
