"""Builds families of metrics: a name, a sentence, and samples by their labels."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily

PREFIX = "valetkey_"


class Family(NamedTuple):
    """The name of a metric without its prefix, its help text, and the names of its labels."""

    name: str
    text: str
    labels: tuple[str, ...] = ()

    def gauge(self, samples: Mapping[Any, float]) -> GaugeMetricFamily:
        """Return the gauges of these samples, by the value of the label, or a tuple of several."""
        family = GaugeMetricFamily(PREFIX + self.name, self.text, labels=self.labels)
        for key, value in samples.items():
            family.add_metric(list(key) if isinstance(key, tuple) else [key], value)
        return family

    def single(self, value: float) -> GaugeMetricFamily:
        """Return one gauge, of a metric without labels."""
        return self.gauge({(): value})


def age(moment: datetime | None, now: datetime) -> float:
    """Return the seconds since a moment: 0 if there is none, or if it is still to come."""
    return 0.0 if moment is None else max((now - moment).total_seconds(), 0.0)
