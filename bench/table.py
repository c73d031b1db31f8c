"""What was measured, for people and for programs."""

import os
import platform
from collections.abc import Mapping
from typing import Any

import boto3
from rich.table import Table

from bench.figures import FIGURES, Figure, Measured

Facts = Mapping[str, Any]


def machine() -> Facts:
    """What the figures depend on; load is how many processes wanted to run in the last minute."""
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "boto3": boto3.__version__,
    }


def as_object(measured: Measured, facts: Facts) -> dict[str, Any]:
    """Write everything under its stable name; null where a peer is not installed."""
    rounded = {name: value and float(f"{value:.4g}") for name, value in measured.items()}
    return {**rounded, "machine": dict(facts)}


def as_table(measured: Measured, facts: Facts) -> Table:
    """Write everything beside its goal."""
    table = Table(caption=", ".join(f"{name} {value}" for name, value in facts.items()))
    table.add_column("name", no_wrap=True)
    table.add_column("what")
    for heading in ("figure", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for name, value in measured.items():
        table.add_row(*row(FIGURES[name], value))
    return table


def row(figure: Figure, value: float | None) -> tuple[str, str, str, str, str]:
    """One line: name, what it is, the figure, its goal, and whether that is met."""
    goal = figure.goal
    sign = {"least": "≥", "most": "≤"}
    wanted = f"{sign[goal.bound]} {_shown(goal.value, figure.unit)}" if goal else ""
    if value is None:
        return figure.name, figure.what, "not installed", wanted, ""
    verdict = ("[green]met[/]" if goal.met_by(value) else "[red]missed[/]") if goal else ""
    return figure.name, figure.what, _shown(value, figure.unit), wanted, verdict


def _shown(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"  # noqa: PLR2004 - digits
    return f"{number}{unit}" if unit in ("x", "/s") else f"{number} {unit}"
