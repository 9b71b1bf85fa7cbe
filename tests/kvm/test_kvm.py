"""KVM's own path through hyperd, on an emulated host whose processor has SVM: no machine with a usable KVM is needed.

Each case of ``inside/cases.py`` is a test here; one host boots for all of them that were selected. ``make test`` has
the essential ones, ``make test-kvm`` all. Neighbours: ``verdicts`` (asks the host), ``inside`` (what runs there).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence

import pytest
from tests.kvm import disk
from tests.kvm.inside.cases import CASES
from tests.kvm.machine import EmulatedHost
from tests.kvm.verdicts import Verdicts
from tests.shell_guest import KERNELS, kernel_or_skip

from hyper.guest.fetch_kernel import installed

HOST_KERNELS = disk.ROOT / "build/kvm-host"
"""Where tools/setup puts the emulated host's kernel."""
LIMIT_S = 900.0

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(LIMIT_S + 60),  # the first one waits for the host's boot, one that is tried again for two
    pytest.mark.filterwarnings("default::tests.kvm.verdicts.TriedAgain"),
]


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verdicts]:
    if os.uname().machine != "x86_64":
        pytest.skip("SVM is emulated on x86_64")
    kernel_or_skip()
    missing = [program for program in disk.PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    host = installed(HOST_KERNELS)
    if not host:
        pytest.skip(f"no kernel for the emulated host in {HOST_KERNELS} (tools/setup test fetches it)")
    selected = [
        str(item.callspec.params["case"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_with_kvm
    ]
    kernel = next(host[0] / name for name in ("vmlinux", "vmlinuz") if (host[0] / name).exists())

    def boot(cases: Sequence[str]) -> EmulatedHost:
        folder = tmp_path_factory.mktemp("kvm")
        image = disk.make(folder, host_kernel=host[0], guest_kernels=KERNELS, cases=cases)
        return EmulatedHost(folder, image, kernel)

    verdicts = Verdicts(boot, selected, LIMIT_S)
    yield verdicts
    verdicts.close()


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=() if case.short else pytest.mark.slow) for name, case in CASES.items()]
)
def test_with_kvm(case: str, verdicts: Verdicts) -> None:
    problem = verdicts.problem(case)
    assert not problem, problem
