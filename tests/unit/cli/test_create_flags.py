from __future__ import annotations

from typing import Any

import pytest

from hyper.cli.create_flags import CREATE_FLAGS, create_body, ports
from hyper.cli.flags import UsageError, parse
from hyper.errors import InvalidArgument

FILES = {"env": "# comment\nA=file\n\n  B=two words\nHOME\n", "labels": "x=y\n"}


def body(*words: str, attach: bool = True, console_size: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    parsed = parse("run", words, CREATE_FLAGS, usage="", summary="", at_least=1, leading=True)
    return create_body(
        parsed,
        environment={"HOME": "/root", "TERM": "xterm"},
        read_file=FILES.__getitem__,
        attach=attach,
        console_size=console_size,
    )


def test_command_and_entrypoint_are_the_images_unless_given() -> None:
    assert {"Cmd", "Entrypoint"} & body("busybox").keys() == set()
    assert body("busybox", "echo", "-n", "x")["Cmd"] == ["echo", "-n", "x"]
    assert body("--entrypoint", "/bin/sh", "busybox")["Entrypoint"] == ["/bin/sh"]
    assert body("--entrypoint=", "busybox")["Entrypoint"] == [""]


def test_streams_follow_from_interactive_and_detach() -> None:
    def streams(found: dict[str, Any]) -> list[bool]:
        names = ("AttachStdin", "AttachStdout", "AttachStderr", "OpenStdin", "StdinOnce")
        return [found[name] for name in names]

    assert streams(body("busybox")) == [False, True, True, False, False]
    assert streams(body("-i", "busybox")) == [True, True, True, True, True]
    assert streams(body("-i", "busybox", attach=False)) == [False, False, False, True, False]
    assert streams(body("-a", "stdout", "busybox")) == [False, True, False, False, False]
    with pytest.raises(UsageError):
        body("-a", "nothing", "busybox")


def test_environment_of_flags_files_and_this_process() -> None:
    found = body("-e", "A=flag", "-e", "TERM", "-e", "UNSET", "--env-file", "env", "busybox")
    assert sorted(found["Env"]) == ["A=flag", "B=two words", "HOME=/root", "TERM=xterm"]
    with pytest.raises(InvalidArgument, match="environment variable"):
        body("-e", "=x", "busybox")


def test_limits_are_in_the_apis_units() -> None:
    host = body("-m", "512m", "--cpus", "1.5", "--pids-limit", "9", "--memory-swap=-1", "--shm-size", "1m", "x")[
        "HostConfig"
    ]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (512 << 20, 1_500_000_000, 9)
    assert (host["MemorySwap"], host["ShmSize"]) == (-1, 1 << 20)


def test_host_settings() -> None:
    host = body(
        *("--rm", "--read-only", "--privileged", "--init", "--network", "none", "--cap-add", "NET_ADMIN"),
        *("--tmpfs", "/run:size=1m", "--tmpfs", "/tmp", "--sysctl", "a.b=1", "--ulimit", "nofile=5:6"),
        *("--restart", "on-failure:3", "-v", "/a:/b", "--add-host", "x:1.2.3.4", "image"),
        console_size=(24, 80),
    )["HostConfig"]
    assert host["Tmpfs"] == {"/run": "size=1m", "/tmp": ""}
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 5, "Hard": 6}]
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert (host["NetworkMode"], host["CapAdd"], host["Sysctls"]) == ("none", ["NET_ADMIN"], {"a.b": "1"})
    assert (host["Binds"], host["ExtraHosts"], host["ConsoleSize"]) == (["/a:/b"], ["x:1.2.3.4"], [24, 80])
    assert all(host[name] for name in ("AutoRemove", "ReadonlyRootfs", "Privileged", "Init"))


def test_health_checks() -> None:
    found = body("--health-cmd", "a b", "--health-interval", "1m30s", "--health-retries", "2", "x")["Healthcheck"]
    assert found == {"Test": ["CMD-SHELL", "a b"], "Interval": 90_000_000_000, "Retries": 2}
    assert body("--no-healthcheck", "x")["Healthcheck"] == {"Test": ["NONE"]}
    assert "Healthcheck" not in body("x")
    with pytest.raises(UsageError, match="conflicts"):
        body("--no-healthcheck", "--health-cmd", "a", "x")


def test_labels_of_flags_and_files() -> None:
    assert body("-l", "a", "-l", "b=c=d", "--label-file", "labels", "x")["Labels"] == {"a": "", "b": "c=d", "x": "y"}


@pytest.mark.parametrize(
    ("published", "bindings"),
    [
        ("80", {"80/tcp": [("", "")]}),
        ("8080:80", {"80/tcp": [("", "8080")]}),
        ("127.0.0.1:8080:80/udp", {"80/udp": [("127.0.0.1", "8080")]}),
        ("127.0.0.1::80", {"80/tcp": [("127.0.0.1", "")]}),
        ("[::1]:8080:80", {"80/tcp": [("::1", "8080")]}),
        ("8000-8001:80-81", {"80/tcp": [("", "8000")], "81/tcp": [("", "8001")]}),
        ("8000-8010:80", {"80/tcp": [("", "8000-8010")]}),
    ],
)
def test_published_ports(published: str, bindings: dict[str, list[tuple[str, str]]]) -> None:
    names, found = ports([published], [])
    assert names == list(bindings)
    assert {name: [(one["HostIp"], one["HostPort"]) for one in ones] for name, ones in found.items()} == bindings


@pytest.mark.parametrize("published", ["x", "0", "70000", "80-70", "8000-8002:80-81", "1:2:3:x"])
def test_what_is_no_port_is_refused(published: str) -> None:
    with pytest.raises(InvalidArgument, match="port"):
        ports([published], [])


def test_exposed_ports_are_no_bindings() -> None:
    assert ports([], ["53/udp", "80-81"]) == (["53/udp", "80/tcp", "81/tcp"], {})


@pytest.mark.parametrize(
    "words",
    [
        ["--memory", "lots"],
        ["--cpus", "0"],
        ["--ulimit", "nofile=x"],
        ["--restart", "on-failure:x"],
        ["--label", "=x"],
        ["--health-timeout", "soon"],
        ["--mount", "source=a"],
    ],
)
def test_bad_values_are_refused_by_name(words: list[str]) -> None:
    with pytest.raises(InvalidArgument, match=words[0]):
        body(*words, "image")
