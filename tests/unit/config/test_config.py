from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hyper.config import Settings, load, size_bytes, sources
from hyper.errors import InvalidArgument


def configured(tmp_path: Path, document: object) -> list[str]:
    path = tmp_path / "daemon.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return ["--config-file", str(path)]


def test_defaults_stand_when_nothing_is_given() -> None:
    settings = load([], {})
    assert settings == Settings()
    assert settings.api_hosts == ("unix:///run/hyper/hyper.sock",)
    assert settings.pid_path == Path("/run/hyper/hyperd.pid")
    assert settings.bridge_for("abc123def456") == "hyper0"


def test_flags_have_dockerds_names() -> None:
    settings = load(
        [
            "-H",
            "unix:///a",
            "--host",
            "unix:///b",
            "--data-root=/data",
            "--exec-root",
            "/exec",
            "-p",
            "/pid",
            "-l",
            "warn",
            "-D",
            "--registry-mirror",
            "https://m",
            "--insecure-registry",
            "r:5000",
            "--bip",
            "10.0.0.1/24",
            "--group",
            "staff",
        ],
        {},
    )
    assert settings.hosts == ("unix:///a", "unix:///b")
    assert (settings.data_root, settings.exec_root, settings.pidfile) == (Path("/data"), Path("/exec"), Path("/pid"))
    assert (settings.log_level, settings.debug, settings.effective_log_level) == ("warn", True, "debug")
    assert (settings.registry_mirrors, settings.insecure_registries) == (("https://m",), ("r:5000",))
    assert (settings.bip, settings.group) == ("10.0.0.1/24", "staff")
    assert settings.bridge_for("abc123def456") == "hyper-abc123de"


def test_file_has_dockers_keys_and_ours_in_an_object(tmp_path: Path) -> None:
    document = {
        "hosts": ["unix:///a"],
        "debug": True,
        "registry-mirrors": ["https://m"],
        "hyper": {
            "accel": "tcg",
            "kvm-timeout": 20,
            "default-memory": "512m",
            "default-cpus": 1.5,
            "vmm-uid-range": "300000-300999",
        },
    }
    settings = load(configured(tmp_path, document), {})
    assert (settings.hosts, settings.debug, settings.registry_mirrors) == (("unix:///a",), True, ("https://m",))
    assert (settings.accel, settings.default_memory_bytes, settings.default_cpus) == ("tcg", 512 << 20, 1.5)
    assert settings.kvm_timeout_s == 20
    assert settings.vmm_uid_range == (300000, 300999)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    arguments = configured(tmp_path, {"hyper": {"accel": "tcg"}, "mtu": 1400})
    environment = {"HYPER_ACCEL": "kvm", "HYPER_GROUP": "staff"}
    assert load(arguments, {}).accel == "tcg"
    assert load(arguments, environment).accel == "kvm"
    assert load([*arguments, "--group", "wheel"], environment).group == "wheel"
    assert load(arguments, environment).mtu == 1400


def test_environment_may_name_the_file_and_lists(tmp_path: Path) -> None:
    path = configured(tmp_path, {"mtu": 1400})[1]
    settings = load([], {"HYPER_CONFIG_FILE": path, "HYPER_HOSTS": "unix:///a, unix:///b", "HYPER_DEBUG": "1"})
    assert (settings.mtu, settings.hosts, settings.debug) == (1400, ("unix:///a", "unix:///b"), True)


def test_setting_given_as_flag_and_in_the_file_is_refused_as_dockerd_does(tmp_path: Path) -> None:
    arguments = configured(tmp_path, {"debug": False, "hosts": ["unix:///a"]})
    with pytest.raises(InvalidArgument) as caught:
        load([*arguments, "--debug", "-H", "unix:///b"], {})
    message = caught.value.message
    assert message.startswith("the following directives are specified both as a flag and in the configuration file: ")
    assert "debug: (from flag: true, from file: false)" in message
    assert "hosts: (from flag: [unix:///b], from file: [unix:///a])" in message


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"data_root": "/x"}, r'did you mean "data-root"'),
        ({"hyper": {"kernal": "/x"}}, r'hyper.kernal \(did you mean "kernel" in the "hyper" object'),
        ({"kernel": "/x"}, r'kernel \(did you mean "kernel" in the "hyper" object'),
        ({"hyper": {"debug": True}}, r'hyper.debug \(did you mean "debug"\?'),
        ({"storage-driver": "overlay2", "zzz": 1}, "storage-driver, zzz"),
        ({"config_file": "/x"}, "config_file"),
    ],
)
def test_unknown_keys_are_refused_with_a_near_match(tmp_path: Path, document: object, words: str) -> None:
    with pytest.raises(InvalidArgument, match="don't match any configuration option") as caught:
        load(configured(tmp_path, document), {})
    assert re.search(words, caught.value.message)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        ("[]", "must be a JSON object"),
        ({"hyper": []}, '"hyper" in it must be a JSON object'),
        ({"hosts": "unix:///a"}, "hosts: 'unix:///a' must be a list"),
        ({"hosts": [1]}, "hosts: .* must be a text"),
        ({"debug": "perhaps"}, "debug: 'perhaps' must be true or false"),
        ({"data-root": "relative"}, "data-root: 'relative' must be an absolute path"),
        ({"mtu": True}, "mtu: True must be"),
        ({"mtu": 9}, "mtu: 9 must be from 576"),
        ({"hyper": {"default-memory": "lots"}}, "must be a size such as 512m"),
        ({"hyper": {"kvm-timeout": "0"}}, "must be a number of seconds, from 1 to 3600"),
        ({"hyper": {"kvm-timeout": "soon"}}, "must be a number of seconds, from 1 to 3600"),
        ({"hyper": {"vmm-uid-range": "0-99"}}, "must go from 1000"),
        ({"hyper": {"bridge-name": "a" * 16}}, "1 to 15 letters"),
        ({"log-level": "loud"}, "must be one of debug, info, warn, error, fatal"),
    ],
)
def test_malformed_files_are_refused_with_the_key(tmp_path: Path, document: object, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        load(configured(tmp_path, document), {})


def test_missing_file_matters_only_when_it_was_asked_for(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.json")
    with pytest.raises(InvalidArgument, match="does not exist"):
        load(["--config-file", missing], {})
    with pytest.raises(InvalidArgument, match="does not exist"):
        load([], {"HYPER_CONFIG_FILE": missing})


def test_empty_file_is_no_settings(tmp_path: Path) -> None:
    assert load(configured(tmp_path, ""), {}).mtu == 1500


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--data"], "unrecognized arguments"),
        (["word"], "unrecognized arguments: word"),
        (["--bip"], "expected one argument"),
        (["--accel", "xen"], "flag --accel: 'xen' must be one of auto, kvm, tcg"),
    ],
)
def test_wrong_flags_are_refused_by_name(arguments: list[str], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        load(arguments, {})


def test_wrong_environment_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="environment variable HYPER_MTU: 'x' must be"):
        load([], {"HYPER_MTU": "x"})


def test_switch_can_be_turned_off_by_flag() -> None:
    assert load(["--debug=false"], {}).debug is False


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512b", 512),
        ("1k", 1024),
        ("512m", 512 << 20),
        ("1.5g", 3 << 29),
        ("2GiB", 2 << 30),
        ("1gb", 1 << 30),
    ],
)
def test_sizes_are_read_as_docker_does(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("value", ["", "m", "-1", "1x", "1mm", "0", "1e9", "٣m", 0, -5, True, None, "9" * 30])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a"):
        size_bytes(value)


def test_every_setting_can_be_set_and_is_explained() -> None:
    for name, source in sources().items():
        assert source.flags, name
        assert source.help, name
        assert source.key or name == "config_file"
    flags = [flag for source in sources().values() for flag in source.flags]
    assert len(set(flags)) == len(flags)


def test_import_is_light() -> None:
    heavy = {"asyncio", "msgspec", "logging", "ssl", "sqlite3", "difflib"}
    script = "import sys, hyper.config; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
