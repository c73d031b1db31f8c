"""The form of a metric: its name, its help text, its labels and its type."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

PREFIX = "valetkey_"


class Family(NamedTuple):
    """A metric. docs/reference/metrics.md is made of those that are constants of this folder.

    name has neither the prefix nor, for a counter, `_total`.
    """

    name: str
    text: str
    labels: tuple[str, ...] = ()
    type: Literal["gauge", "counter", "histogram"] = "gauge"

    def samples(self, samples: Mapping[Any, float]) -> Metric:
        """Return the gauges or counters by the value of the label, or a tuple of several."""
        make = CounterMetricFamily if self.type == "counter" else GaugeMetricFamily
        family = make(PREFIX + self.name, self.text, labels=self.labels)
        for key, value in samples.items():
            family.add_metric(list(key) if isinstance(key, tuple) else [key], value)
        return family

    def single(self, value: float) -> Metric:
        """Return one gauge or counter, of a metric without labels."""
        return self.samples({(): value})
