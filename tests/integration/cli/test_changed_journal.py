"""The journal of an interrupted run that something else has changed is refused, not trusted."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli.interrupted_download import (
    DOWNLOAD,
    RESUME_DOWNLOAD,
    interrupt_third_chunk,
    run_cli,
)
from tests.support.fakes.fake_service import running_fake_service

pytestmark = pytest.mark.usefixtures("keys_file")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint", [-1, 0, 0, None, None, 0]),
        ("checkpoint", [0, -1, 0, None, None, 0]),
        ("checkpoint", [10**9, 0, 0, None, None, 0]),
        ("checkpoint", [0, 10**40, 0, None, None, 0]),
        ("batch_plan", [[["batch-1"]], 0, 1]),
        ("batch_plan", [[["batch-1"]], 100_000, 0]),
        ("batch_plan", [[], 100_000, 1_000]),
        ("batch_plan", [[[]], 100_000, 1_000]),
        ("kept_bytes", -1),
        ("request", {"output_format": []}),
        ("request", {"\x1b[2J": 1}),
    ],
)
def test_a_changed_journal_is_refused_and_the_rows_are_kept(
    broker: str, name: str, value: Any
) -> None:
    with running_fake_service(broker, interrupt_third_chunk):
        run_cli(*DOWNLOAD)
    path, rows = Path("links.csv.resume.json"), Path("links.csv.partial").read_bytes()
    changed = json.dumps(json.loads(path.read_bytes()) | {name: value, "is_finished": False})
    path.write_text(changed, encoding="utf-8")
    with running_fake_service(broker) as service:
        result = run_cli(*RESUME_DOWNLOAD)
    assert (result.exit_code, service.received) == (2, []), result.exception
    assert "\x1b" not in result.stderr
    assert Path("links.csv.partial").read_bytes() == rows
    assert path.read_text(encoding="utf-8") == changed


def test_the_journal_of_a_finished_run_with_a_list_for_its_format_is_no_traceback(
    broker: str,
) -> None:
    with running_fake_service(broker, interrupt_third_chunk):
        run_cli(*DOWNLOAD)
    path = Path("links.csv.resume.json")
    values = json.loads(path.read_bytes()) | {"is_finished": True}
    values["request"]["output_format"] = ["csv"]
    path.write_text(json.dumps(values), encoding="utf-8")
    with running_fake_service(broker) as service:
        result = run_cli(*RESUME_DOWNLOAD)
    assert (result.exit_code, service.received) == (2, []), result.exception
