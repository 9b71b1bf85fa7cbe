"""A user's own seccomp profile, in Docker's form, as the runtime spec has it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyper.errors import InvalidArgument
from hyper.oci.seccomp_profile import decode, for_container

DENY: dict[str, Any] = {"defaultAction": "SCMP_ACT_ERRNO"}


def profile(*rules: dict[str, Any], **more: Any) -> str:
    return json.dumps({**DENY, **more, "syscalls": rules})


def names(text: str, capabilities: tuple[str, ...] = (), machine: str = "x86_64") -> list[str]:
    made = for_container(decode(text), capabilities, machine)
    return [name for rule in made["syscalls"] for name in rule["names"]]


def allow(name: str, **more: Any) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", **more}


def test_a_rule_is_for_the_capabilities_that_it_names() -> None:
    text = profile(allow("a", includes={"caps": ["CAP_BPF"]}), allow("b", excludes={"caps": ["CAP_BPF"]}))
    assert names(text) == ["b"]
    assert names(text, ("CAP_BPF",)) == ["a"]


def test_a_rule_is_for_the_machines_that_it_names() -> None:
    text = profile(allow("a", includes={"arches": ["arm64"]}), allow("b", excludes={"arches": ["amd64", "x32"]}))
    assert names(text) == []
    assert names(text, machine="aarch64") == ["a", "b"]


def test_a_rule_for_newer_kernels_than_guests_surely_have_is_left_out() -> None:
    assert names(profile(*(allow(version, includes={"minKernel": version}) for version in ("4.8", "6.6")))) == ["4.8"]


def test_architectures_are_those_of_the_machine() -> None:
    table = [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    ]
    made = for_container(decode(profile(archMap=table)), (), "x86_64")
    assert made["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]


def test_arguments_errors_and_the_old_way_to_name_a_call_are_kept() -> None:
    argument = {"index": 0, "value": 7, "valueTwo": 0, "op": "SCMP_CMP_EQ"}
    text = profile({"name": "mkdir", "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": [argument]}, defaultErrnoRet=1)
    assert for_container(decode(text), (), "x86_64") == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": [],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": [argument]}],
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Decoding seccomp profile failed"),
        ("[]", "Decoding seccomp profile failed"),
        ("[" * 100_000, "Decoding seccomp profile failed"),
        ("{}", "defaultAction"),
        (profile({**allow("a"), "name": "a"}), "use either 'name' or 'names'"),
        (profile(architectures=["A"], archMap=[{"architecture": "B"}]), "use either 'architectures' or 'archMap'"),
        (profile(listenerPath="/x"), "listenerPath"),
    ],
)
def test_what_is_no_profile_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        decode(text)
