"""The measurements as text for people, and as an object for programs."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import click
from rich.text import Text

from bench.catalog import METRICS
from bench.comparison import Spread
from bench.metrics import Measurements, Metric

Facts = Mapping[str, Any]


class Row(NamedTuple):
    """The texts of one metric: its values, its goal, and the verdict on it."""

    median: str
    spread: str
    goal: str
    verdict: str


def machine_facts(load_before: float) -> Facts:
    """Return what the measurements depend on; loads are averages of a minute, of all processes."""
    return {
        "cores": os.cpu_count(),
        "load_before": round(load_before, 1),
        "load": round(os.getloadavg()[0], 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "boto3": boto3.__version__,
    }


def read_object(path: Path) -> Mapping[str, Any]:
    """Return what an earlier run printed with --json. Raises click.UsageError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise click.UsageError(f"{path} is not what --json prints")
    return found


def as_object(measurements: Measurements, facts: Facts) -> dict[str, Any]:
    """Return all values by metric name; None if the compared library is not installed.

    `spread` has the smallest and the largest value of the rounds, where there are several.
    """
    rounded = {name: value and _round(value) for name, value in measurements.items()}
    spread = {
        name: [_round(value.least), _round(value.most)]
        for name, value in measurements.items()
        if isinstance(value, Spread)
    }
    return {**rounded, "spread": spread, "machine": dict(facts)}


def as_text(
    measurements: Measurements, facts: Facts, earlier: Mapping[str, Any] | None = None
) -> Text:
    """Return all values with their goals, two lines each, which fit into 80 columns.

    earlier is what `as_object` returned in another run: its values stand beside those of this one.
    """
    text = Text()
    for name, value in measurements.items():
        metric = METRICS[name]
        row = metric_row(metric, value)
        text.append(name, "bold").append(f": {metric.description}\n")
        text.append(f"{row.median:>13}  {row.spread:<24}{row.goal:<15}")
        text.append(f"{row.verdict:<7}", "green" if row.verdict == "met" else "red")
        if earlier is not None and isinstance(before := earlier.get(name), (int, float)):
            text.append(f"was {_format(before, metric.unit)}")
        text.append("\n")
    text.append("".join(f"\n{name}: {value}" for name, value in facts.items()))
    return text


def metric_row(metric: Metric, value: float | None) -> Row:
    """Return the texts of a metric."""
    goal = metric.goal
    sign = {"least": "≥", "most": "≤"}
    goal_text = f"{sign[goal.bound]} {_format(goal.value, metric.unit)}" if goal else ""
    if value is None:
        return Row("not installed", "", goal_text, "")
    verdict = ("met" if goal.is_met_by(value) else "missed") if goal else ""
    spread = ""
    if isinstance(value, Spread):
        least, most = (_format(end, metric.unit) for end in (value.least, value.most))
        spread = f"{least} to {most}"
    return Row(_format(value, metric.unit), spread, goal_text, verdict)


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _format(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"  # noqa: PLR2004 - digits
    return f"{number}{unit}" if unit in ("x", "/s", "/min") else f"{number} {unit}".rstrip()
