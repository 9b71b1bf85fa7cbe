"""What /proc/meminfo says of the host's memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyper.system import memory


def test_figures_are_bytes(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       24689004 kB\nMemFree:          123 kB\nMemAvailable:   23000000 kB\n")
    assert memory.total_bytes(meminfo) == 24689004 << 10
    assert memory.available_bytes(meminfo) == 23000000 << 10


def test_this_host_has_memory_of_which_some_is_available() -> None:
    assert 0 < memory.available_bytes() < memory.total_bytes()


def test_a_kernel_that_does_not_tell_is_no_zero(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 1 kB\n")
    with pytest.raises(ValueError, match="has no MemAvailable"):
        memory.available_bytes(meminfo)
