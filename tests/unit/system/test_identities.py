"""User ids for VMMs: never given out twice, whatever daemon asks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hyper.errors import ResourceExhausted
from hyper.system.identities import Identities, UidRange

FIRST = 1_950_000_000


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    return tmp_path / "uids"


def test_two_daemons_never_get_the_same_uid(lock_file: Path) -> None:
    one, other = (Identities(lock_file, UidRange(FIRST, 8)) for _ in range(2))
    given = [daemon.allocate() for _ in range(4) for daemon in (one, other)]
    assert sorted(given) == list(range(FIRST, FIRST + 8))
    with pytest.raises(ResourceExhausted, match="in use"):
        one.allocate()
    one.close()
    other.close()


def test_a_freed_uid_can_be_had_again(lock_file: Path) -> None:
    one, other = (Identities(lock_file, UidRange(FIRST, 1)) for _ in range(2))
    uid = one.allocate()
    one.free(uid)
    one.free(uid)
    assert other.allocate() == uid
    one.close()
    other.close()


def test_a_daemon_that_dies_leaves_no_uid_taken(lock_file: Path) -> None:
    one = Identities(lock_file, UidRange(FIRST, 1))
    one.allocate()
    one.close()
    other = Identities(lock_file, UidRange(FIRST, 1))
    assert other.allocate() == FIRST
    other.close()


def test_the_uid_of_a_living_process_is_not_given_out(lock_file: Path) -> None:
    identities = Identities(lock_file, UidRange(FIRST, 2))
    with subprocess.Popen(["sleep", "60"], user=FIRST, group=FIRST) as orphan:
        try:
            assert identities.allocate() == FIRST + 1
            with pytest.raises(ResourceExhausted):
                identities.allocate()
        finally:
            orphan.kill()
    assert identities.allocate() == FIRST
    identities.close()


def test_the_uid_of_an_adopted_vmm_is_held(lock_file: Path) -> None:
    one, other = (Identities(lock_file, UidRange(FIRST, 1)) for _ in range(2))
    one.hold(FIRST)
    one.hold(0)  # not one of ours: nothing to hold
    with pytest.raises(ResourceExhausted):
        other.allocate()
    one.close()
    other.close()
