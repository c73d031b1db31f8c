"""deploy/systemd: the units are valid, confined, and run what exists."""

import re
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from tests.support.deploy.manifests import SYSTEMD, install_units
from tests.support.docs.command_lines import parse_command
from tests.support.scope import skip_without
from worker.__main__ import main
from worker.base.progress import STOP_TIMEOUT

UNITS = (
    *(f"valetkey-worker@{role}.service" for role in ("issue", "bulk", "upkeep", "events")),
    "valetkey-metrics.service",
    "valetkey-migrate.service",
)
MAX_EXPOSURE = 1.1  # of 10, with systemd 257; the network, which the service needs, is 0.9 of it


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the units, as they are installed."""
    if shutil.which("systemd-analyze") is None:
        skip_without("the units of systemd", "apt-get install systemd")
    install_units(tmp_path)
    return tmp_path


def analyze(root: Path, *words: str) -> str:
    command = ("systemd-analyze", f"--root={root}", *words)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_units_are_valid(root: Path) -> None:
    assert analyze(root, "verify", "valetkey.target", *UNITS) == ""


def test_an_unknown_option_is_found(root: Path) -> None:
    unit = root / "etc" / "systemd" / "system" / "valetkey-metrics.service"
    unit.write_text(unit.read_text() + "[Service]\nRestartSteps=often\n")
    assert "RestartSteps" in analyze(root, "verify", unit.name)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_confined(root: Path, unit: str) -> None:
    report = analyze(root, "security", "--offline=yes", "--no-pager", unit)
    (level,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", report)
    assert float(level) <= MAX_EXPOSURE


def commands() -> list[list[str]]:
    lines = [
        line
        for path in SYSTEMD.glob("*.service")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return [line.split() for line in lines if line.startswith("ExecStart=")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_unit_runs_a_command_that_exists(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "tenants.toml").touch()
    assert words[:3] == ["ExecStart=/opt/valetkey/.venv/bin/python", "-m", "worker"]
    local = {"/etc/valetkey/tenants.toml": str(tmp_path / "tenants.toml")}
    for role in ("issue", "bulk", "upkeep", "events"):
        parse_command(main, [local.get(word, word).replace("%i", role) for word in words[3:]])


def test_a_worker_has_enough_time_to_stop() -> None:
    unit = RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[method-assign, assignment] # options have capitals
    unit.read(SYSTEMD / "valetkey-worker@.service")
    assert int(unit["Service"]["TimeoutStopSec"]) >= STOP_TIMEOUT + 10
    assert unit["Service"]["KillMode"] == "mixed"  # `run` stops its workers itself
