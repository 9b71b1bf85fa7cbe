"""docker-py's own integration tests: what passes must go on passing. ``docker_py_suite/run.py`` says how they run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compat.docker_py_suite import fetch
from tests.compat.docker_py_suite.run import (
    LEFT_OUT,
    expected_failures,
    hyperd_with_hub,
    outdated,
    run,
    surprises,
)
from tests.hyperd import Hyperd

pytestmark = pytest.mark.vm
QUICK = ("api_client_test.py", "client_test.py", "errors_test.py", "api_exec_test.py::ExecDemuxTest")
"""A cross section of a few seconds: system, errors, events, streams."""
AT_LEAST = 15


@pytest.fixture
def pooled(tmp_path: Path) -> Iterator[Hyperd]:
    try:
        fetch.suite()
    except fetch.NotThere as error:
        pytest.skip(f"docker-py's tests cannot be fetched: {error}")
    with hyperd_with_hub(tmp_path) as daemon:
        yield daemon


def test_every_expected_failure_names_a_reason_and_an_engines_test() -> None:
    for test, reason in expected_failures().items():
        assert test.partition("::")[0] not in LEFT_OUT
        assert len(reason.split()) > 1, f"{test}: {reason}"


@pytest.mark.timeout(300)
def test_a_cross_section_passes(pooled: Hyperd) -> None:
    outcome = run(pooled, [f"tests/integration/{name}" for name in QUICK], timeout_s=240)
    assert surprises(outcome, expected_failures()) == {}
    assert len(outcome.passed) >= AT_LEAST


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_all_but_the_expected_pass(pooled: Hyperd) -> None:
    outcome = run(pooled, [], timeout_s=1200)
    expected = expected_failures()
    assert surprises(outcome, expected) == {}
    print("pass now, to be struck from the list:", outdated(outcome, expected))  # noqa: T201
