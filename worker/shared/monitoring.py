"""What features contribute to `doctor` and `metrics`: checks, metrics, and work that may wait."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy import Connection

from valetkey.units import format_duration

State = Literal["ok", "warn", "fail"]


class Check(NamedTuple):
    """The result of one check: its subject, its state, and a hint for the operator if not ok."""

    check: str
    state: State
    message: str
    hint: str | None = None


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


class Window(NamedTuple):
    """The time before now in which recent rows are counted, and the text that names it."""

    label: str
    length: timedelta


def age(moment: datetime | None, now: datetime) -> float:
    """Return the seconds since a time: 0 if there is none, or if it is still to come."""
    return 0.0 if moment is None else max((now - moment).total_seconds(), 0.0)


class WaitingWork(NamedTuple):
    """Work that may wait for up to a limit: how `doctor`, `metrics` and alert rules see it.

    since reads since when the oldest waits, None if there is none. late is the message of the check
    beyond the limit; {age} is for how long the oldest has waited. waiting is the message up to the
    limit, if it is not that for none. metric is the age in seconds, without a name
    if there is no metric of it.
    """

    check: str
    since: Callable[[Connection], datetime | None]
    limit: timedelta
    none: str
    late: str
    hint: str
    state: State = "warn"
    waiting: str | None = None
    metric: Family = Family("", "")


OVERDUE_AFTER = timedelta(minutes=5)


def check_waiting(work: WaitingWork, oldest: datetime | None, now: datetime) -> Check:
    """Check that no work waits for too long. oldest is since when, None if there is none."""
    if oldest is None:
        return Check(work.check, "ok", work.none)
    age = now - oldest
    if age <= work.limit:
        text = work.waiting or work.none
        return Check(work.check, "ok", text.format(age=format_duration(age)))
    return Check(work.check, work.state, work.late.format(age=format_duration(age)), work.hint)
