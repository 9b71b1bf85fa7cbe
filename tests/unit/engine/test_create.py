"""A new container's record: the user's settings over the image's, merged as Docker merges them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import msgspec
import pytest

from hyper.engine.create import container_from, writable_bytes
from hyper.engine.model import Container, ContainerConfig, Ulimit
from hyper.errors import HyperError, InvalidArgument, Unsupported
from hyper.images.store import Image
from hyper.oci import image_config

ID = "0123456789ab" + "c" * 52
WORDS: list[tuple[Any, Any, Any, Any, tuple[str, ...]]] = [
    # image's entrypoint and command, user's entrypoint and command, what runs
    (None, ["sh"], None, None, ("sh",)),
    (None, ["sh"], None, ("ls", "-l"), ("ls", "-l")),
    (["e"], ["c"], None, None, ("e", "c")),
    (["e"], ["c"], None, ("d",), ("e", "d")),
    (["e"], ["c"], ("f",), None, ("f",)),
    (["e"], ["c"], ("f",), ("d",), ("f", "d")),
    (["e"], ["c"], ("",), ("d",), ("d",)),
    (["e"], ["c"], (), None, ("c",)),
    (["e"], ["c"], (), ("d",), ("d",)),
    (["e"], ["c"], None, (), ("e", "c")),
    ("one word", None, None, None, ("one word",)),
]


@dataclass(frozen=True)
class FakeImage:
    config: Any
    id: str = "sha256:" + "1" * 64


def made(image: dict[str, Any] | None = None, *, warnings: list[str] | None = None, **changes: Any) -> Container:
    defaults = image_config.ContainerConfig(**(image if image is not None else {"cmd": ["sh"]}))

    @dataclass(frozen=True)
    class Config:
        container_config: Any = defaults

    container, told = container_from(
        ContainerConfig(image="i", **changes),
        cast(Image, FakeImage(Config())),
        container_id=ID,
        name="one",
        log_path="/log",
        network_ids={"bridge": "b" * 64, "none": "n" * 64},
    )
    if warnings is not None:
        warnings.extend(told)
    return container


@pytest.mark.parametrize(("entrypoint", "cmd", "own_entrypoint", "own_command", "words"), WORDS)
def test_what_runs(entrypoint: Any, cmd: Any, own_entrypoint: Any, own_command: Any, words: tuple[str, ...]) -> None:
    container = made({"entrypoint": entrypoint, "cmd": cmd}, entrypoint=own_entrypoint, command=own_command)
    assert (container.path, *container.args) == words


@pytest.mark.parametrize(("image", "entrypoint"), [({}, None), ({"cmd": ["c"], "entrypoint": ["e"]}, ("",))])
def test_something_must_run(image: dict[str, Any], entrypoint: Any) -> None:
    with pytest.raises(InvalidArgument, match="No command specified"):
        made(image, entrypoint=entrypoint)


def test_the_users_settings_win_and_the_images_fill_up() -> None:
    image = {
        "cmd": ["sh"],
        "env": ["PATH=/image", "A=image", "B=image", "GONE=image"],
        "labels": {"a": "image", "b": "image"},
        "exposed_ports": {"80/tcp": {}},
        "working_dir": "/image",
        "user": "image",
        "stop_signal": "SIGINT",
    }
    config = made(image, env=("A=user", "C=user", "GONE"), labels={"a": "user"}, exposed_ports=("81/tcp",)).config
    assert config.env == ("A=user", "C=user", "GONE", "PATH=/image", "B=image")
    assert config.labels == {"a": "user", "b": "image"}
    assert set(config.exposed_ports) == {"80/tcp", "81/tcp"}
    assert (config.working_dir, config.user, config.stop_signal) == ("/image", "image", "SIGINT")
    own = made(image, working_dir="/user", user="user", stop_signal="SIGTERM").config
    assert (own.working_dir, own.user, own.stop_signal) == ("/user", "user", "SIGTERM")


def test_the_host_name_is_the_short_id_unless_there_is_one() -> None:
    assert made().config.hostname == ID[:12]
    assert made(hostname="box").config.hostname == "box"


def test_the_network_is_the_default_one_or_none() -> None:
    [default] = made().networks
    assert (default.network, default.network_id) == ("bridge", "b" * 64)
    [none] = made(network_mode="none").networks
    assert (none.network, none.network_id) == ("none", "n" * 64)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"memory_bytes": 1024}, InvalidArgument, "Minimum memory limit allowed is 6MB"),
        ({"nano_cpus": -1}, InvalidArgument, "NanoCPUs"),
        ({"network_mode": "mine"}, Unsupported, "--network none"),
        ({"network_mode": "bridge", "pid_mode": "container:x"}, Unsupported, "one network card"),
        ({"publish_all_ports": True, "pid_mode": "container:x"}, Unsupported, "ports cannot be published"),
        ({"network_mode": "container:x", "ipc_mode": "shareable"}, Unsupported, "cannot have a shareable IPC"),
        ({"log_driver": "syslog"}, Unsupported, "only json-file"),
        ({"log_options": {"max-size": "1m"}}, Unsupported, "logging driver"),
        ({"stop_signal": "bogus"}, InvalidArgument, "Invalid signal: bogus"),
        ({"security_opt": ("apparmor=mine",)}, Unsupported, "security module"),
        ({"security_opt": ("what=ever",)}, InvalidArgument, "invalid --security-opt"),
        ({"security_opt": ('seccomp={"a":1}',)}, InvalidArgument, "Decoding seccomp profile failed"),
        ({"security_opt": ("no-new-privileges=maybe",)}, InvalidArgument, "invalid --security-opt 2"),
        ({"security_opt": ("nonsense",)}, InvalidArgument, "invalid --security-opt 1"),
        ({"ulimits": (Ulimit(name="nosuch", soft=1, hard=1),)}, InvalidArgument, "nosuch"),
        ({"cap_add": ("NOSUCH",)}, InvalidArgument, "NOSUCH"),
        ({"init": True}, Unsupported, "--init"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(changes: dict[str, Any], error: type[HyperError], words: str) -> None:
    with pytest.raises(error, match=words):
        made(**changes)


def test_a_record_survives_json() -> None:
    container = made(env=("A=b",), labels={"x": "y"}, memory_bytes=64 << 20)
    assert msgspec.json.decode(msgspec.json.encode(container), type=Container) == container


@pytest.mark.parametrize(
    ("changes", "member", "nothing", "words"),
    [
        ({"memory_swappiness": 0}, "memory_swappiness", None, "Memory swappiness discarded."),
        ({"kernel_memory_bytes": 7 << 20}, "kernel_memory_bytes", 0, "kernel memory limit capabilities"),
        ({"oom_kill_disable": True}, "oom_kill_disable", False, "OomKillDisable discarded."),
        ({"blkio_weight": 500}, "blkio_weight", 0, "Block I/O weight or the cgroup is not mounted."),
        ({"blkio_device_weights": ("/dev/sda",)}, "blkio_device_weights", (), "Weight-device discarded."),
        ({"cpu_percent": 50}, "cpu_percent", 0, "linux does not support CPU percent. Percent discarded."),
    ],
)
def test_what_the_guests_kernel_cannot_do_is_discarded_with_a_warning(
    changes: dict[str, Any], member: str, nothing: object, words: str
) -> None:
    warnings: list[str] = []
    container = made(warnings=warnings, **changes)
    assert getattr(container.config, member) == nothing
    [warning] = warnings
    assert words in warning


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("1G", 1 << 30), ("64m", 64 << 20), ("1.5GiB", 3 << 29), ("33554432", 32 << 20), ("2 tb", 2 << 40)],
)
def test_a_writable_layer_has_the_size_that_was_asked_for(text: str, size_bytes: int) -> None:
    assert writable_bytes(ContainerConfig(image="i", storage_opt={"Size": text}), 7) == size_bytes


def test_a_writable_layer_without_a_size_has_the_default_one() -> None:
    assert writable_bytes(ContainerConfig(image="i"), 7) == 7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "1k"}, "16 MiB to 16 TiB"),
        ({"size": "999999P"}, "16 MiB to 16 TiB"),
        ({"size": "big"}, "invalid size: 'big'"),
        ({"size": ""}, "invalid size"),
        ({"inodes": "7"}, "Unknown option inodes"),
    ],
)
def test_a_storage_option_that_cannot_be_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        writable_bytes(ContainerConfig(image="i", storage_opt=options), 7)
