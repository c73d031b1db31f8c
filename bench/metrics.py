"""A metric that the benchmark measures, with a stable name, and its goal."""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["", "x", "µs", "ms", "/s", "/min", "bytes", "MB"]
Measurements = dict[str, float | None]
"""Values by metric name; None if the compared library is not installed."""

DATABASE_SUFFIXES = (("", ""), ("_postgres", ", with PostgreSQL"))
"""The endings of names and descriptions of a metric on SQLite, and of the same on PostgreSQL."""


@dataclass(frozen=True)
class Goal:
    """The lowest or highest value that a metric should have."""

    bound: Literal["least", "most"]
    value: float

    def is_met_by(self, value: float) -> bool:
        """Return whether a value meets the goal."""
        return value >= self.value if self.bound == "least" else value <= self.value


@dataclass(frozen=True)
class Metric:
    """A metric: one row of the report."""

    name: str
    description: str
    unit: Unit
    goal: Goal | None = None


def at_least(value: float) -> Goal:
    """Return the goal of a value that should not be lower."""
    return Goal("least", value)


def at_most(value: float) -> Goal:
    """Return the goal of a value that should not be higher."""
    return Goal("most", value)
