from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.client.scripted_server import serving

from hyper.cli import main
from hyper.cli.flags import UsageError, parse
from hyper.cli.update import FLAGS, update_body
from hyper.errors import InvalidArgument


def body(*words: str) -> dict[str, Any]:
    return update_body(parse("update", (*words, "c"), FLAGS, usage="", summary="", at_least=1))


def test_only_what_was_given_is_sent() -> None:
    assert body("-m", "64m", "--memory-swap", "-1", "--cpus", "1.5") == {
        "Memory": 64 << 20,
        "MemorySwap": -1,
        "NanoCpus": 1_500_000_000,
    }
    assert body("-c", "5", "--cpuset-cpus=0-1", "--cpu-period", "1000", "--cpu-quota=-1") == {
        "CpuShares": 5,
        "CpusetCpus": "0-1",
        "CpuPeriod": 1000,
        "CpuQuota": -1,
    }
    assert body("--restart", "on-failure:3") == {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}


def test_no_limit_of_processes_is_sent() -> None:
    assert body("--pids-limit", "0") == {"PidsLimit": 0}
    assert body("--pids-limit=-1") == {"PidsLimit": -1}


def test_what_the_engine_refuses_is_sent_all_the_same() -> None:
    assert body("--blkio-weight", "10", "--cpuset-mems", "0") == {"BlkioWeight": 10, "CpusetMems": "0"}
    assert body("--cpu-rt-period", "1", "--cpu-rt-runtime", "2") == {"CpuRealtimePeriod": 1, "CpuRealtimeRuntime": 2}


def test_nothing_to_change_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="at least one flag"):
        body()
    with pytest.raises(InvalidArgument, match="--memory 'much' is no size"):
        body("--memory", "much")


def test_names_go_to_stdout_and_warnings_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = b'{"Warnings":["careful"]}'
    with serving(tmp_path, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)) as server:
        assert main.run(["-H", f"unix://{server.path}", "update", "--pids-limit", "5", "one"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("one\n", "hyper: warning: careful\n")
