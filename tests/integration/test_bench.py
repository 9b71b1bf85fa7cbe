"""``make bench`` works from end to end and leaves nothing behind; what it measures is for docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.hyperd import ROOT, needs_docker_cli

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_bench_measures_every_rung_and_says_what_is_missing(tmp_path: Path) -> None:
    needs_docker_cli()
    results = tmp_path / "results.json"
    options = ["--small", "--runs", "1", "--pool", "1", "--peers", str(tmp_path), "--results", str(results)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "starts", *options],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:{ROOT}/build/tools"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left behind: nothing" in done.stdout
    found = json.loads(results.read_text())["starts"]["samples"]["run --rm --network none busybox true"]
    assert [len(found[f"hyper {rung}"]) for rung in ("pool", "template", "cold")] == [1, 1, 1]
    for peer in ("docker", "podman"):
        assert peer in found or f"not measured: {peer}: there is no" in done.stdout
