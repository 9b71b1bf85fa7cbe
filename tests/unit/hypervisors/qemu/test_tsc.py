"""The rate of the counter: measured well, and the same number as long as it is right."""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyper.hypervisors.qemu import tsc

RATE = 2_596_123


def test_measurements_agree_also_on_a_busy_machine(tmp_path: Path) -> None:
    if not tsc._measure():
        pytest.skip(f"this {platform.machine()} has no time stamp counter with a constant rate")
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            sum(range(1000))

    busy = [threading.Thread(target=work) for _ in range(4)]
    for thread in busy:
        thread.start()
    try:
        found = [tsc._measure() for _ in range(10)]
    finally:
        done.set()
        for thread in busy:
            thread.join()
    assert max(found) - min(found) < min(found) / 2000
    assert 100_000 < min(found) < 10_000_000


@pytest.mark.parametrize("measured", [RATE, RATE + 300, RATE - 1000])
def test_it_stays_the_same_number(tmp_path: Path, measured: int) -> None:
    known = tmp_path / "made" / "tsc-khz"
    assert tsc.rate_khz(known, lambda: RATE) == RATE
    assert tsc.rate_khz(known, lambda: measured) == RATE
    assert [path.name for path in known.parent.iterdir()] == ["tsc-khz"]


@pytest.mark.parametrize("before", [str(RATE + 5000), str(RATE // 80), "", "damaged", "-1", "\0"])
def test_it_is_another_on_another_host_and_after_damage(tmp_path: Path, before: str) -> None:
    known = tmp_path / "tsc-khz"
    known.write_text(before)
    assert tsc.rate_khz(known, lambda: RATE) == RATE
    assert tsc.rate_khz(known, lambda: RATE + 1) == RATE


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert tsc.rate_khz(tmp_path / "file" / "tsc-khz", lambda: RATE) == RATE


def test_what_cannot_be_measured_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "tsc-khz"
    known.write_text(str(RATE))

    @contextmanager
    def denied() -> Iterator[None]:
        raise PermissionError
        yield

    with monkeypatch.context() as patched:
        patched.setattr(tsc, "_counter", denied)
        assert tsc.rate_khz(known) == 0
    with monkeypatch.context() as patched:
        patched.setattr(tsc, "_is_constant", lambda: False)
        assert tsc.rate_khz(known) == 0
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert tsc.rate_khz(known) == 0


def test_a_counter_is_constant_when_the_processor_says_so(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    for flags, constant in (("fpu tsc constant_tsc nonstop_tsc", True), ("fpu tsc not_constant_tsc", False)):
        cpuinfo.write_text(f"flags\t\t: {flags}\n")
        assert tsc._is_constant(cpuinfo) is constant
