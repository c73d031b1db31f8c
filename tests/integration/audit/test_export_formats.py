"""Exports contain the rows of a plain loop, in every format."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from sqlalchemy import Connection, Engine

from tests.support.audit_model.filters import filters, matches
from tests.support.audit_model.logs import GeneratedLog, LogRow, generated_logs, no_shrinking
from tests.support.builders.audit_rows import AuditedBatch
from valetkey.units import format_utc
from worker.audit import audit_rows
from worker.audit.audit_rows import GrantRecord, read_bound, stream_blocks, to_records
from worker.audit.grant_filters import GrantFilter
from worker.export.export_run import FormatName, HashedStream, open_writer
from worker.rules.annotations import ANNOTATION_FIELDS

NOW = datetime(2026, 12, 1, tzinfo=UTC)


def written(connection: Connection, grant_filter: GrantFilter, name: FormatName) -> bytes:
    buffer = io.BytesIO()
    with open_writer(name, HashedStream(buffer)) as write:
        for block in stream_blocks(connection, grant_filter, read_bound(connection, NOW)):
            write(block)
    return buffer.getvalue()


def expected(row: LogRow) -> dict[str, Any]:
    batch = row.batch
    expires_at = row.time + timedelta(hours=1)
    return {
        "time": row.time,
        "tenant": batch.tenant,
        "requested_by": batch.requested_by,
        "signed_by": batch.signed_by,
        "key_thumbprint": batch.key_thumbprint,
        **{name: row.value(name) for name in ANNOTATION_FIELDS},
        "bucket": batch.bucket,
        "kind": batch.kind,
        "key": row.key,
        "decision": row.code or "issued",
        "expires_at": None if row.code else expires_at,
        "grant": row.grant,
    }


def cell(value: Any) -> str:
    return format_utc(value) if isinstance(value, datetime) else value or ""


def as_json(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: format_utc(value) if isinstance(value, datetime) else value
        for name, value in values.items()
    }


def test_exports_equal_the_rows_of_a_loop(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that a log has several reads, and a read several blocks.
    monkeypatch.setattr(audit_rows, "_CHUNKS_PER_READ", 3)
    monkeypatch.setattr(audit_rows, "_ROWS_PER_BLOCK", 4)
    examples = 30 if engine.dialect.name == "sqlite" else 10

    @settings(no_shrinking, max_examples=examples)
    @given(generated_logs(), filters())
    def compare(log: GeneratedLog, grant_filter: GrantFilter) -> None:
        with engine.connect() as connection, connection.begin() as transaction:
            log.write(connection)
            outputs = {
                name: written(connection, grant_filter, name)
                for name in ("csv", "jsonl", "parquet", "ocsf")
            }
            blocks = stream_blocks(connection, grant_filter, read_bound(connection, NOW))
            records = [record for block in blocks for record in to_records(block)]
            transaction.rollback()
        rows = [expected(row) for row in log.rows() if matches(row, grant_filter)]
        assert [record._asdict() for record in records] == rows
        lines = csv.reader(io.StringIO(outputs["csv"].decode(), newline=""))
        assert [[text.removeprefix("'") for text in line] for line in lines] == [
            [*GrantRecord._fields],
            *([cell(value) for value in row.values()] for row in rows),
        ]
        json_lines = [json.loads(line) for line in outputs["jsonl"].decode().splitlines()]
        assert json_lines == [as_json(row) for row in rows]
        assert pq.read_table(io.BytesIO(outputs["parquet"])).to_pylist() == rows
        events = [json.loads(line) for line in outputs["ocsf"].decode().splitlines()]
        assert [event["metadata"]["uid"] for event in events] == [row["grant"] for row in rows]

    compare()


def test_items_that_arrive_meanwhile_are_left_out(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin() as transaction:
        AuditedBatch(1, ["a", "b"]).write(connection)
        bound = read_bound(connection, NOW)
        AuditedBatch(2, ["c"]).write(connection)
        AuditedBatch(3, ["d"], decided_at=NOW).write(connection)
        blocks = [*stream_blocks(connection, GrantFilter(), bound)]
        keys = [item[2] for block in blocks for chunk in block for item in chunk.items]
        transaction.rollback()
    assert keys == ["a", "b"]
