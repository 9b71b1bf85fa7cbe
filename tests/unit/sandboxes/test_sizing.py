"""How big a VM is made."""

from __future__ import annotations

import pytest

from hyper.errors import InvalidArgument
from hyper.sandboxes.sizing import Host, SizingSettings, size_for

MIB = 1 << 20
GIB = 1 << 30
HOST = Host(memory_bytes=16 * GIB, cpus=4)
SETTINGS = SizingSettings(default_memory_bytes=2 * GIB, default_cpus=2)


def test_without_a_limit_the_default_is_there_for_the_workload() -> None:
    size = size_for(None, None, SETTINGS, HOST, emulated=False)
    assert size.memory_bytes > 2 * GIB and size.memory_bytes % (2 * MIB) == 0
    assert (size.cpus, size.max_cpus) == (2, 4)


@pytest.mark.parametrize("limit", [6 * MIB, 64 * MIB, 512 * MIB, 8 * GIB])
def test_a_limit_fits_into_the_vm_beside_the_kernels_page_structures(limit: int) -> None:
    size = size_for(limit, None, SETTINGS, HOST, emulated=False)
    assert size.memory_bytes - limit >= 90 * MIB + size.memory_bytes * 0.016
    assert size.max_memory_bytes == HOST.memory_bytes


def test_a_limit_above_the_host_gives_a_vm_that_leaves_the_host_an_eighth() -> None:
    assert size_for(64 * GIB, None, SETTINGS, HOST, emulated=False).memory_bytes == HOST.memory_bytes * 7 // 8


def test_less_than_dockers_minimum_is_refused_in_dockers_words() -> None:
    with pytest.raises(InvalidArgument, match=r"^Minimum memory limit allowed is 6MB$"):
        size_for(6 * MIB - 1, None, SETTINGS, HOST, emulated=False)


@pytest.mark.parametrize(("asked", "vcpus"), [(0.01, 1), (1.0, 1), (1.01, 2), (4.0, 4)])
def test_cpus_are_rounded_up_to_whole_ones(asked: float, vcpus: int) -> None:
    assert size_for(None, asked, SETTINGS, HOST, emulated=False).cpus == vcpus


@pytest.mark.parametrize("asked", [0.0, -1.0, 4.5, float("nan")])
def test_cpus_that_the_host_does_not_have_are_refused(asked: float) -> None:
    with pytest.raises(InvalidArgument, match=r"Range of CPUs is from 0\.01 to 4\.00"):
        size_for(None, asked, SETTINGS, HOST, emulated=False)


def test_a_small_hosts_default_is_what_it_has() -> None:
    assert size_for(None, None, SETTINGS, Host(1 * GIB, 1), emulated=False).cpus == 1


@pytest.mark.parametrize(
    ("wanted", "emulated", "vcpus"), [(None, False, 4), (None, True, 1), (3.0, True, 3), (1.5, False, 2), (9, False, 4)]
)
def test_without_a_setting_an_emulated_vm_has_one_vcpu_and_another_all(
    wanted: float | None, emulated: bool, vcpus: int
) -> None:
    assert size_for(None, None, SizingSettings(default_cpus=wanted), HOST, emulated=emulated).cpus == vcpus
