"""Runs docker-py's tests against a hyperd and compares with ``expected.txt``, the list of those that fail, with why.

    .venv/bin/python -m tests.compat.docker_py_suite.run [pytest's arguments]     # by hand: all, or some

Left out are swarm and what belongs to it, engine plugins, and the credential stores of the client, which never ask an
engine. Neighbours: ``fetch.py``, ``images.py``, ``../test_docker_py_suite.py`` (who calls it in ``make test``).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.compat.docker_py_suite import fetch, images
from tests.hyperd import POOLED, Hyperd, running_hyperd
from tests.registry import RealRegistry

EXPECTED = Path(__file__).with_name("expected.txt")
LEFT_OUT = (
    "api_config_test.py",
    "api_plugin_test.py",
    "api_secret_test.py",
    "api_service_test.py",
    "api_swarm_test.py",
    "models_nodes_test.py",
    "models_services_test.py",
    "models_swarm_test.py",
    "credentials",
)
TEST_TIMEOUT_S = 60
_ENTRY = re.compile(r"(?P<test>\S+::\S+::\S+)\s+(?P<reason>\S.*)")
SOMETIMES = "sometimes:"
"""Begins the reason of a test that may pass as well."""


@dataclass(frozen=True)
class Outcome:
    """By test ("file::Class::test"): why each failed (its first line), and those that passed."""

    failed: dict[str, str]
    passed: frozenset[str]
    skipped: frozenset[str]


def expected_failures() -> dict[str, str]:
    """What ``expected.txt`` says: test to reason."""
    found = {}
    for number, line in enumerate(EXPECTED.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            match = _ENTRY.fullmatch(line.strip())
            assert match is not None, f"{EXPECTED.name}:{number}: write a test and the reason: {line}"
            assert match["test"] not in found, f"{EXPECTED.name}:{number}: {match['test']} is there twice"
            found[match["test"]] = match["reason"]
    return found


@contextlib.contextmanager
def hyperd_with_hub(folder: Path) -> Iterator[Hyperd]:
    """A hyperd with the images that the tests use, and a mirror that has them for those that pull. Containers that
    failed tests leave are removed at the end."""
    with running_hyperd(*POOLED, "--registry-mirror", f"http://{images.MIRROR}") as hyperd:
        with RealRegistry(hyperd.namespace, folder) as registry:
            assert registry.host == images.MIRROR
            images.bring(hyperd.door)
            yield hyperd
        left = hyperd.door.out("ps", "-aq").split()
        if left:
            hyperd.door.docker("rm", "-f", *left)


def run(hyperd: Hyperd, arguments: Sequence[str], *, timeout_s: float) -> Outcome:
    """The tests that pytest's ``arguments`` choose (none: all), in a copy: they write beside themselves."""
    folder, python = fetch.suite()
    with tempfile.TemporaryDirectory(prefix="docker-py-", dir="/var/tmp") as name:
        copy = Path(name)
        shutil.copytree(folder / "tests", copy / "tests")
        report = copy / "report.xml"
        left_out = [f"--ignore=tests/integration/{item}" for item in LEFT_OUT]
        process = hyperd.namespace.popen(
            [
                *(str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"),
                *("--timeout", str(TEST_TIMEOUT_S), "--tb=short", f"--junitxml={report}"),
                *left_out,
                *(arguments or ["tests/integration"]),
            ],
            cwd=copy,
            env=hyperd.door.environment,
        )
        try:
            process.wait(timeout_s)
        finally:
            process.kill()
            process.wait()
        assert report.exists(), f"pytest ended with {process.returncode} and left no report"
        return _outcome(report)


def _outcome(report: Path) -> Outcome:
    failed: dict[str, str] = {}
    passed: set[str] = set()
    skipped: set[str] = set()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        path, _, kind = case.get("classname", "").rpartition(".")
        test = f"{path.rpartition('.')[2]}.py::{kind}::{case.get('name')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if bad is not None:
            failed.setdefault(test, (bad.get("message") or "").strip().partition("\n")[0][:300])
        elif case.find("skipped") is not None:
            skipped.add(test)
        else:
            passed.add(test)
    return Outcome(failed, frozenset(passed - failed.keys()), frozenset(skipped))


def surprises(outcome: Outcome, expected: dict[str, str]) -> dict[str, str]:
    """Those that failed and should not have."""
    return {test: why for test, why in outcome.failed.items() if test not in expected}


def outdated(outcome: Outcome, expected: dict[str, str]) -> list[str]:
    """Those of the list that pass: to be struck from it."""
    return sorted(test for test in outcome.passed if test in expected and not expected[test].startswith(SOMETIMES))


def main() -> int:
    """Print what came out, and the list's lines to add and to strike; 1 when the list is not true."""
    with (
        tempfile.TemporaryDirectory(prefix="mirror-", dir="/var/tmp") as folder,
        hyperd_with_hub(Path(folder)) as hyperd,
    ):
        outcome = run(hyperd, sys.argv[1:], timeout_s=1200)
    expected = expected_failures()
    added, struck = surprises(outcome, expected), outdated(outcome, expected)
    for test, why in sorted(added.items()):
        sys.stdout.write(f"add     {test}  {why}\n")
    for test in struck:
        sys.stdout.write(f"strike  {test}\n")
    sys.stdout.write(
        f"{len(outcome.passed)} passed, {len(outcome.failed)} failed ({len(added)} of them not in the list), "
        f"{len(outcome.skipped)} skipped\n"
    )
    return 1 if added or struck else 0


if __name__ == "__main__":
    sys.exit(main())
