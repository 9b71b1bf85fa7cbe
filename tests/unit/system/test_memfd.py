"""Bounded logs: a writer without end gets no further than their size."""

from __future__ import annotations

import os
import subprocess

import pytest

from hyper.system.memfd import BoundedLog


def test_only_the_first_bytes_are_kept_and_nothing_can_make_room() -> None:
    log = BoundedLog.create("test-log", 4096)
    os.write(log.writer, b"first\n")
    with pytest.raises(OSError, match="not permitted"):
        os.write(log.writer, b"x" * 8192)
        os.write(log.writer, b"x" * 8192)
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(log.writer, 1 << 20)
    assert log.text().startswith("first\n") and len(log.text()) <= 4096
    log.close()


def test_a_process_that_prints_without_end_is_bounded_and_not_hindered() -> None:
    log = BoundedLog.create("test-log", 4096)
    subprocess.run(
        "echo start; head -c 1000000 /dev/zero | tr '\\0' x; exit 0", shell=True, stdout=log.writer, stderr=2
    )
    assert log.text().startswith("start\n") and len(log.text()) <= 4096
    log.close()


def test_a_later_daemon_finds_the_log_of_a_living_process() -> None:
    log = BoundedLog.create("test-log", 4096)
    with subprocess.Popen(["sh", "-c", "echo hello; exec sleep 60"], stdout=log.writer) as process:
        try:
            log.close_writer()
            found = BoundedLog.of_process(process.pid, "test-log")
            assert found is not None
            while not found.text():
                pass
            assert found.text() == log.text() == "hello\n"
            assert BoundedLog.of_process(process.pid, "other-log") is None
            found.close()
        finally:
            process.kill()
    assert BoundedLog.of_process(process.pid, "test-log") is None
    log.close()


def test_what_is_shown_has_no_control_characters() -> None:
    log = BoundedLog.create("test-log", 4096)
    os.write(log.writer, b"red \x1b[31m\x07 \xff\nline\n")
    assert log.text() == "red [31m \ufffd\nline\n"
    log.close()
    assert log.text() == ""
