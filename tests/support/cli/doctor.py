"""Runs `doctor`, and selects its checks."""

from typing import Any

from click.testing import CliRunner, Result

from tests.support.cli.operator import json_lines
from worker.commands.health.doctor import doctor


def run_doctor(*options: str) -> Result:
    return CliRunner().invoke(doctor, ["--json", *options])


def doctor_checks(name: str, *options: str) -> list[dict[str, Any]]:
    """Return the checks of this name."""
    return [check for check in json_lines(run_doctor(*options)) if check["check"] == name]
