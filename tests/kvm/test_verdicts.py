"""What is tried once more, and what is not; with hosts that say what they are told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.kvm.machine import Stalled
from tests.kvm.verdicts import TriedAgain, Verdicts

FINE: dict[str, Any] = {"problem": "", "late": False}
WRONG: dict[str, Any] = {"problem": "wrong", "late": False}
LATE: dict[str, Any] = {"problem": "no answer within 60 s", "late": True}
SILENT: dict[str, Any] = {}


class ScriptedHosts:
    """Each boots with the next script: what it says of the cases that it is given, one after the other."""

    def __init__(self, *scripts: Sequence[dict[str, Any]]) -> None:
        self._scripts = list(scripts)
        self.booted: list[Sequence[str]] = []
        self.closed = 0

    def __call__(self, cases: Sequence[str]) -> ScriptedHosts:
        self.booted.append(cases)
        self._says = iter([{"phase": "ready"}, *self._reports(cases, self._scripts.pop(0))])
        return self

    def _reports(self, cases: Sequence[str], script: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"case": case, **said} if said else {} for case, said in zip(cases, script, strict=False)]

    def report(self, deadline_s: float) -> dict[str, Any]:
        said = next(self._says)
        if not said:
            raise Stalled("it said nothing")
        return said

    def close(self) -> None:
        self.closed += 1


def problems(hosts: ScriptedHosts, limit_s: float = 100) -> list[str]:
    verdicts = Verdicts(hosts, ["a", "b", "c"], limit_s)
    found = [verdicts.problem(case) for case in ("a", "b", "c")]
    verdicts.close()
    return found


def test_one_host_says_what_went_wrong_with_each_case() -> None:
    hosts = ScriptedHosts([FINE, WRONG, FINE])
    assert problems(hosts) == ["", "wrong", ""]
    assert hosts.booted == [("a", "b", "c")]
    assert hosts.closed == 1


@pytest.mark.parametrize("stall", [LATE, SILENT])
def test_a_case_that_got_no_answer_is_tried_again_with_those_behind_it(stall: dict[str, Any]) -> None:
    hosts = ScriptedHosts([FINE, stall], [FINE, FINE])
    with pytest.warns(TriedAgain, match="b took too long"):
        assert problems(hosts) == ["", "", ""]
    assert hosts.booted == [("a", "b", "c"), ("b", "c")]
    assert hosts.closed == 2


def test_the_second_stall_of_a_case_is_its_verdict() -> None:
    hosts = ScriptedHosts([FINE, SILENT], [LATE], [FINE])
    with pytest.warns(TriedAgain):
        assert problems(hosts) == ["", LATE["problem"], ""]
    assert hosts.booted == [("a", "b", "c"), ("b", "c"), ("c",)]


def test_when_the_time_is_over_nothing_more_is_booted() -> None:
    hosts = ScriptedHosts()
    assert all("longer than they may" in problem for problem in problems(hosts, limit_s=0))
    assert hosts.booted == []
