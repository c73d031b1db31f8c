"""The form of a metric: its name, its help text and its labels."""

from collections.abc import Mapping
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
