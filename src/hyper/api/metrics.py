"""``GET /metrics``: what the daemon counts (:mod:`hyper.metrics`), as Prometheus and its like read it.

prometheus-client does the formats. It takes 50 ms to import, which the first who asks pays, in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hyper.api.docker.call import Call
from hyper.api.docker.router import Route
from hyper.api.http.messages import Response
from hyper.metrics import Distribution, Family, Metrics
from hyper.system import blocking

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_OPEN_METRICS = "application/openmetrics-text"


def routes(metrics: Metrics) -> tuple[Route, ...]:
    async def show(call: Call) -> Response:
        accept = call.request.headers.get("accept", "")
        body, content_type = await blocking.run(exposition, metrics.families(), accept)
        return Response(200, body, content_type)

    return (Route("GET", "/metrics", show),)


def exposition(families: Sequence[Family], accept: str) -> tuple[bytes, str]:
    """The text and its content type: the OpenMetrics format for who accepts it, else Prometheus's own. The process's
    own numbers (CPU, memory, descriptors) come with it."""
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.process_collector import ProcessCollector
    from prometheus_client.registry import Collector, CollectorRegistry

    class Ours(Collector):
        def collect(self) -> Iterable[Metric]:
            return [_metric(family) for family in families]

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Ours())
    ProcessCollector(registry=registry)
    # Only the kind is asked for: the library takes any version that a client names for one that it speaks.
    encode, content_type = choose_encoder(_OPEN_METRICS if _OPEN_METRICS in accept.lower() else "")
    return encode(registry), content_type


def _metric(family: Family) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    metric: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
    match family.kind:
        case "histogram":
            metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        case "counter":
            metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
        case "gauge":
            metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in family.values.items():
        if isinstance(value, Distribution):
            assert isinstance(metric, HistogramMetricFamily)
            buckets = [(repr(bound_s), float(count)) for bound_s, count in value.buckets]
            metric.add_metric(labels, [*buckets, ("+Inf", float(value.count))], value.sum)
        else:
            assert not isinstance(metric, HistogramMetricFamily)
            metric.add_metric(labels, value)
    return metric
