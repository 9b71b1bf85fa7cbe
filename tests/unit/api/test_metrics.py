"""The text of ``/metrics``, read back by prometheus-client's own parsers."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from hyper.api.metrics import exposition
from hyper.metrics import Metrics

PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;"
    "q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


def some() -> Metrics:
    metrics = Metrics()
    metrics.counter("hyper_things_total", 'Things "and"\nmore.', "kind").add('a "b"\\\n')
    metrics.gauge("hyper_level", "Level.", read=lambda: 2.5)
    histogram = metrics.histogram("hyper_waits_seconds", "Waits.", "what", bounds_s=(0.001, 1))
    for seconds in (0.0005, 0.001, 0.5, 5):
        histogram.observe(seconds, "x")
    return metrics


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=zz", "text/plain; version=0.0.4; charset=utf-8"),
        (PROMETHEUS_3, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("Application/OpenMetrics-Text; version=abc", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
def test_both_formats_say_the_same(accept: str, content_type: str) -> None:
    body, told = exposition(some().families(), accept)
    assert told == content_type
    text = body.decode()
    families = list(parse_open_metrics(text) if "openmetrics" in content_type else parse_text(text))
    kinds = {family.name: family.type for family in families}
    assert (kinds["hyper_things"], kinds["hyper_level"], kinds["hyper_waits_seconds"]) == (
        "counter",
        "gauge",
        "histogram",
    )
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }
    assert values[("hyper_things_total", ("kind", 'a "b"\\\n'))] == 1
    assert values[("hyper_level",)] == 2.5
    buckets = {key[1][1]: value for key, value in values.items() if key[0] == "hyper_waits_seconds_bucket"}
    assert buckets == {"0.001": 2, "1.0": 3, "+Inf": 4}
    assert values[("hyper_waits_seconds_count", ("what", "x"))] == 4
    assert values[("hyper_waits_seconds_sum", ("what", "x"))] == pytest.approx(5.5015)
    assert values[("process_resident_memory_bytes",)] > 0
    assert [family.documentation for family in families if family.name == "hyper_things"] == ['Things "and"\nmore.']


def test_the_daemon_imports_nothing_of_it_before_somebody_asks() -> None:
    code = (
        "import sys, hyper.daemon.main, hyper.api.docker.app, hyper.api.metrics, hyper.engine.engine;"
        "print('prometheus_client' in sys.modules);"
        "hyper.api.metrics.exposition([], '');"
        "print('prometheus_client' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["False", "True"]
