import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from pydantic_core import to_jsonable_python

from valetkey.cli.formats import CSV_HEADING, csv_row, json_line
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Grant

GRANT = Grant(
    id="0199.0",
    key='a,"b".pdf',
    method="GET",
    url="https://example.test/a?X-Amz-Signature=1",
    headers={"x-a": "1"},
    expires_at=datetime(2026, 11, 24, 12, tzinfo=UTC),
    limited_by="policy",
)
REFUSAL = Refusal(code=Code.KEY_EMPTY, field="items[1].key", message="a key\nis empty", key="")


def test_json_lines_equal_the_wire_format() -> None:
    grant, refusal = (json.loads(json_line(result)) for result in (GRANT, REFUSAL))
    assert (Grant(**grant), Refusal.model_validate(refusal)) == (GRANT, REFUSAL)
    assert json_line(GRANT).endswith("}\n")


def test_csv_has_a_column_for_each_field_and_refusals_beside_grants() -> None:
    text = CSV_HEADING + csv_row(GRANT) + csv_row(REFUSAL)
    grant, refusal = csv.DictReader(io.StringIO(text, newline=""))
    wire = to_jsonable_python(GRANT)
    assert json.loads(grant["headers"]) == GRANT.headers
    assert json.loads(grant["fields"]) == {}
    for name in ("key", "id", "method", "url", "expires_at", "limited_by"):
        assert grant[name] == wire[name]
    assert (grant["refused"], grant["field"], grant["message"]) == ("", "", "")
    assert (refusal["key"], refusal["url"], refusal["refused"]) == ("", "", "key_empty")
    assert (refusal["field"], refusal["message"]) == (REFUSAL.field, REFUSAL.message)


def test_a_key_with_any_line_ending_is_one_csv_row() -> None:
    keys = ["a\rb", "a\nb", "a\r\nb", "a\r"]
    rows = [csv_row(REFUSAL.model_copy(update={"key": key})) for key in keys]
    parsed = csv.DictReader(io.StringIO(CSV_HEADING + "".join(rows), newline=""))
    assert [row["key"] for row in parsed] == keys
    assert not any(row.endswith("\r\n") for row in rows)


def test_csv_times_are_in_utc() -> None:
    paris = timezone(timedelta(hours=1))
    grant = replace(GRANT, expires_at=datetime(2026, 11, 24, 13, tzinfo=paris))
    assert "2026-11-24T12:00:00Z" in csv_row(grant)
