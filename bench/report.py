"""The measurements as a table for people, and as an object for programs."""

import os
import platform
from collections.abc import Mapping
from typing import Any

import boto3
from rich.table import Table

from bench.metrics import METRICS, Measurements, Metric

Facts = Mapping[str, Any]


def machine_facts() -> Facts:
    """Return what the measurements depend on; `load` is the load average of the last minute."""
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "boto3": boto3.__version__,
    }


def as_object(measurements: Measurements, facts: Facts) -> dict[str, Any]:
    """Return all values by metric name; None if the compared library is not installed."""
    rounded = {name: value and float(f"{value:.4g}") for name, value in measurements.items()}
    return {**rounded, "machine": dict(facts)}


def as_table(measurements: Measurements, facts: Facts) -> Table:
    """Return a table of all values with their goals."""
    table = Table(caption=", ".join(f"{name} {value}" for name, value in facts.items()))
    table.add_column("name", no_wrap=True)
    table.add_column("description")
    for heading in ("value", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for name, value in measurements.items():
        table.add_row(*table_row(METRICS[name], value))
    return table


def table_row(metric: Metric, value: float | None) -> tuple[str, str, str, str, str]:
    """Return a row: name, description, value, goal, and the verdict on the goal."""
    goal = metric.goal
    sign = {"least": "≥", "most": "≤"}
    goal_text = f"{sign[goal.bound]} {_format(goal.value, metric.unit)}" if goal else ""
    if value is None:
        return metric.name, metric.description, "not installed", goal_text, ""
    verdict = ("[green]met[/]" if goal.is_met_by(value) else "[red]missed[/]") if goal else ""
    return metric.name, metric.description, _format(value, metric.unit), goal_text, verdict


def _format(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"  # noqa: PLR2004 - digits
    return f"{number}{unit}" if unit in ("x", "/s", "/min") else f"{number} {unit}"
