"""Access logs whose lines the clients of storage make difficult."""

import os
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support.uses.access_logs import GRANT_ID, aws_line, rgw_line
from tests.support.uses.log_imports import Import, lines, numbers, recorded
from worker.context import Context
from worker.core.uses.access_log import MAX_LINE_BYTES
from worker.core.uses.reports import UseReport
from worker.usecases.uses import import_logs
from worker.usecases.uses.record import RecordedUses, record_uses


def test_a_file_whose_name_is_not_utf8_is_imported(
    run: Import, grant_id: str, tmp_path: Path
) -> None:
    name = os.fsdecode(b"log-\xff")
    (tmp_path / name).write_bytes(lines(grant_id, "R1"))
    assert numbers(run(tmp_path / name, "--json"))["downloads"] == 1


def test_a_download_that_cannot_be_stored_stops_no_other(
    run: Import, grant_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    def record(reports: list[UseReport], context: Context) -> RecordedUses:
        if any(report.request_id in {"R3", "R9"} for report in reports):
            raise OverflowError
        return record_uses(reports, context)

    monkeypatch.setattr(import_logs, "record_uses", record)
    log = tmp_path / "access.log"
    log.write_bytes(lines(grant_id, *(f"R{number}" for number in range(10))))
    result = numbers(run(log, "--json"))
    assert (result["downloads"], result["ignored"]) == (8, {"unstorable": 2})
    assert len(recorded(engine)) == 8
    assert numbers(run(log, "--json"))["lines"] == 0


@pytest.mark.parametrize(
    "bad",
    [
        aws_line(sent="9" * 30),
        b'{"x-grant-id=":' + b"[" * 60_000 + b"\n",
        rgw_line().replace(b"curl/8.5", rb"\ud800\u0000"),
        aws_line(agent="a\0b"),
    ],
)
def test_no_line_ends_an_import(run: Import, grant_id: str, tmp_path: Path, bad: bytes) -> None:
    log = tmp_path / "access.log"
    bad = bad.replace(GRANT_ID.encode(), grant_id.encode())
    log.write_bytes(lines(grant_id, "R1") + bad + lines(grant_id, "R2"))
    result = numbers(run(log, "--json"))
    assert (result["lines"], result["downloads"] + result["skipped"].get("malformed", 0)) == (3, 3)


def test_the_end_of_a_line_that_is_too_long_is_no_line_of_its_own(
    run: Import, grant_id: str, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    start = b"x-grant-id=".ljust(MAX_LINE_BYTES + 1, b"x")
    log.write_bytes(start + lines(grant_id, "R1", "R2"))
    result = numbers(run(log, "--json"))
    assert (result["lines"], result["downloads"], result["skipped"]) == (2, 1, {"malformed": 1})


def test_a_long_line_that_is_still_written_is_left_for_later(
    run: Import, grant_id: str, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    log.write_bytes(lines(grant_id, "R1") + b"x" * 3 * MAX_LINE_BYTES)
    assert numbers(run(log, "--json"))["unfinished"] == 1
    log.write_bytes(log.read_bytes() + lines(grant_id, "R2", "R3"))
    assert numbers(run(log, "--json"))["downloads"] == 1
