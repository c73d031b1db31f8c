"""The rules of deploy/prometheus, checked by promtool with made-up samples."""

from pathlib import Path

from tests.support.alerts.cases import CASES, cases_file
from tests.support.alerts.rules import ALERTS, CONFIG_FILE
from tests.support.servers.debian_programs import find_program
from tests.support.servers.programs import run_program


def test_prometheus_accepts_its_configuration_and_the_rules() -> None:
    checked = run_program([find_program("promtool"), "check", "config", str(CONFIG_FILE)])
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_alert_fires_as_long_after_its_fault_as_its_case_says_and_then_ends(
    tmp_path: Path,
) -> None:
    (tmp_path / "cases.yml").write_text(cases_file())
    command = [find_program("promtool"), "test", "rules", str(tmp_path / "cases.yml")]
    tested = run_program(command)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_alert_has_a_case() -> None:
    assert {case.alert for case in CASES} == ALERTS.keys()
