import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import tenant_config
from tests.support.uses.access_logs import aws_line
from tests.support.uses.log_imports import Import, lines, numbers, recorded
from worker.core.tenants.config import TenantConfig
from worker.db.uses.log_imports import write_imported
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage
from worker.usecases.uses import import_logs


def test_each_download_is_recorded_with_who_and_when(
    run: Import, grant_id: str, tmp_path: Path, engine: Engine
) -> None:
    log = tmp_path / "access.log"
    log.write_bytes(lines(grant_id, "R1", "R2") + aws_line(grant_id, operation="REST.PUT.OBJECT"))
    result = numbers(run(log, "--json"))
    assert (result["downloads"], result["lines"], result["skipped"]) == (2, 3, {"other": 1})
    assert recorded(engine) == [("downloaded", "192.0.2.3", "curl/8.5")] * 2


def test_what_is_added_to_a_file_is_imported_later(
    run: Import, grant_id: str, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    log.write_bytes(lines(grant_id, "R1"))
    assert numbers(run(log, "--json"))["lines"] == 1
    log.write_bytes(lines(grant_id, "R1", "R2"))
    again = numbers(run(log, "--json"))
    assert (again["lines"], again["downloads"], again["known"]) == (1, 1, 0)


def test_a_line_that_is_still_written_is_left_for_later(
    run: Import, grant_id: str, tmp_path: Path
) -> None:
    log, whole = tmp_path / "access.log", lines(grant_id, "R1", "R2")
    log.write_bytes(whole[:-40])
    first = numbers(run(log, "--json"))
    assert (first["downloads"], first["unfinished"]) == (1, 1)
    log.write_bytes(whole)
    assert numbers(run(log, "--json"))["downloads"] == 1


def test_a_file_that_was_rotated_is_read_from_its_start(
    run: Import, grant_id: str, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    log.write_bytes(lines(grant_id, "R1", "R2"))
    run(log)
    log.write_bytes(lines(grant_id, "R3"))
    assert numbers(run(log, "--json"))["downloads"] == 1


@pytest.mark.parametrize("start", [b"", b"79a59df900b949e5 valetkey-demo ["])
def test_a_file_that_had_no_line_at_first_is_recognised_as_rotated(
    run: Import, grant_id: str, tmp_path: Path, start: bytes
) -> None:
    log = tmp_path / "access.log"
    for content in (start, lines(grant_id, "R1", "R2"), lines(grant_id, "R3", "R4", "R5")):
        log.write_bytes(content)
        result = numbers(run(log, "--json"))
    assert (result["lines"], result["downloads"]) == (3, 3)


def test_a_compressed_log_is_imported_once(run: Import, grant_id: str, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    with gzip.open(folder / "access.log.gz", "wb") as log:
        log.write(lines(grant_id, "R1"))
    assert numbers(run(folder, "--json"))["downloads"] == 1
    again = numbers(run(folder, "--json"))
    assert (again["imported_before"], again["lines"]) == (1, 0)


def test_the_objects_below_a_prefix_are_imported_once(
    run: Import,
    grant_id: str,
    seaweed: Storage,
    apply_config: ApplyConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tenant_config()
    logs = replace(config.buckets["demo"], name="logs", bucket="logs", endpoint=seaweed.endpoint)
    apply_config(TenantConfig({**config.buckets, "logs": logs}, config.tenants))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    client = seaweed.client()
    create_buckets(client, {"logs"})
    prefix = f"{grant_id}/"
    many = [f"R{number}" for number in range(4_000)]  # more than one range of the object
    client.put_object(Bucket="logs", Key=f"{prefix}2026-11-24", Body=lines(grant_id, *many))
    packed = gzip.compress(lines(grant_id, "R1", "S1"))
    client.put_object(Bucket="logs", Key=f"{prefix}2026-11-25.gz", Body=packed)
    first = numbers(run(f"s3://logs/{prefix}", "--json"))
    assert (first["logs"], first["downloads"], first["known"]) == (2, 4_001, 1)
    assert numbers(run(f"s3://logs/{prefix}", "--json"))["imported_before"] == 2


def test_an_import_that_was_killed_continues_and_doubles_nothing(
    run: Import, grant_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    log = tmp_path / "access.log"
    log.write_bytes(lines(grant_id, *(f"R{number}" for number in range(10))))
    monkeypatch.setattr(import_logs, "_REPORTS_PER_TRANSACTION", 4)
    with monkeypatch.context() as patch:
        patch.setattr("worker.usecases.uses.import_logs.write_imported", killed_at_second_call())
        assert isinstance(run(log).exception, SystemExit)
    assert len(recorded(engine)) == 8
    again = numbers(run(log, "--json"))
    assert (again["known"], again["downloads"]) == (4, 2)
    assert len(recorded(engine)) == 10


def killed_at_second_call() -> Callable[..., None]:
    calls = iter(range(9))

    def write_once(*args: Any) -> None:
        if next(calls):
            raise KeyboardInterrupt
        write_imported(*args)

    return write_once


def test_lines_that_fit_no_grant_are_counted_by_reason(
    run: Import, grant_id: str, tmp_path: Path, engine: Engine
) -> None:
    log = tmp_path / "access.log"
    log.write_bytes(
        aws_line(grant_id, key="acme/other.pdf")
        + aws_line(grant_id.replace(".0", ".7"))
        + aws_line(grant_id, auth="-", query=f"x-grant-id={grant_id}")
        + aws_line(grant_id, status="403")
        + b"x-grant-id="
        + b"\xff" * 40
        + b"\n"
    )
    result = numbers(run(log, "--json"))
    assert result["ignored"] == {"other_key": 1, "unknown_grant": 1}
    assert result["skipped"] == {"unsigned": 1, "failed": 1, "malformed": 1}
    assert recorded(engine) == []
    text = run(log, tmp_path / "access.log").output
    assert "0 downloads recorded; read 0 lines of 2 logs" in text


def test_a_source_is_required(run: Import) -> None:
    assert run().exit_code == 2
