"""``GET /metrics`` of a real hyperd, parsed as Prometheus would."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.hyperd import Hyperd, hyperd, needs_docker_cli

__all__ = ["hyperd"]
pytestmark = pytest.mark.vm


def scraped(hyperd: Hyperd) -> dict[tuple[str, ...], float]:
    answer = hyperd.door.http("GET", "/metrics", validate=False)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def test_a_scrape_tells_what_was_run(hyperd: Hyperd) -> None:
    needs_docker_cli()
    door = hyperd.door
    before = scraped(hyperd)
    assert before[("hyper_images",)] == 1
    with door.name() as name:
        door.docker("run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "1000")
        door.docker("run", "--rm", "--network", "none", "busybox", "false", check=False)
        rung = door.out("inspect", "-f", "{{.Hyper.Rung}}", name)
        after = scraped(hyperd)
        assert after[("hyper_containers", "running")] == 1
        assert sum(value for key, value in after.items() if key[0] == "hyper_container_starts_total") == 2
        assert after[("hyper_container_exits_total", "failure")] == 1
        assert after[("hyper_container_start_seconds_count", rung)] >= 1
        whole_s = sum(
            value
            for key, value in after.items()
            if key[0] == "hyper_container_start_phase_seconds_sum" and not key[1].startswith("sandbox.")
        )
        total_s = sum(value for key, value in after.items() if key[0] == "hyper_container_start_seconds_sum")
        assert whole_s == pytest.approx(total_s, rel=0.01)
    assert after[("process_cpu_seconds_total",)] >= before[("process_cpu_seconds_total",)]
    assert door.http("POST", "/metrics", validate=False).status == 405
