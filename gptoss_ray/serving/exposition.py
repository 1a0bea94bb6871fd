"""All metrics in Prometheus's text format: those of every ingress replica, and those of the ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST

IngressFamilies = Mapping[str, Sequence[Metric]]
"""What each ingress replica has measured, by its id; "" where there is only one, which needs no label."""


def exposition(ingresses: IngressFamilies, groups: Iterable[Metric]) -> bytes:
    """Return everything as text, each metric once with the series of all ingress replicas."""
    return generate_latest(_Collected([*merged(ingresses), *groups]))


def merged(ingresses: IngressFamilies) -> list[Metric]:
    """Put the same metrics of several ingress replicas together, told apart by the label `ingress`."""
    families: dict[str, Metric] = {}
    for id_, measured in ingresses.items():
        label = {"ingress": id_} if id_ else {}
        for metric in measured:
            family = families.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type, metric.unit)
            )
            for sample in metric.samples:
                family.samples.append(sample._replace(labels={**label, **sample.labels}))
    return list(families.values())


class _Collected(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families
