import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from pydantic_core import to_jsonable_python

from valetkey.cli.formats import CSV, JSON, get_format
from valetkey.wire.messages import Grant
from valetkey.wire.refusals import Code, Refusal

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


def test_json_lines_are_what_came_over_the_wire() -> None:
    grant, refusal = (json.loads(JSON.row(answer)) for answer in (GRANT, REFUSAL))
    assert (Grant(**grant), Refusal.model_validate(refusal)) == (GRANT, REFUSAL)
    assert JSON.row(GRANT).endswith("}\n")


def test_csv_has_a_column_for_each_field_and_refusals_beside_grants() -> None:
    written = CSV.heading + CSV.row(GRANT) + CSV.row(REFUSAL)
    grant, refusal = csv.DictReader(io.StringIO(written, newline=""))
    wire = to_jsonable_python(GRANT)
    assert json.loads(grant["headers"]) == GRANT.headers
    assert json.loads(grant["fields"]) == {}
    for name in ("key", "id", "method", "url", "expires_at", "limited_by"):
        assert grant[name] == wire[name]
    assert (grant["refused"], grant["field"], grant["message"]) == ("", "", "")
    assert (refusal["key"], refusal["url"], refusal["refused"]) == ("", "", "key_empty")
    assert (refusal["field"], refusal["message"]) == (REFUSAL.field, REFUSAL.message)


def test_a_key_with_any_end_of_a_line_is_one_row_of_csv() -> None:
    keys = ["a\rb", "a\nb", "a\r\nb", "a\r"]
    rows = [CSV.row(REFUSAL.model_copy(update={"key": key})) for key in keys]
    read = csv.DictReader(io.StringIO(CSV.heading + "".join(rows), newline=""))
    assert [row["key"] for row in read] == keys
    assert not any(row.endswith("\r\n") for row in rows)


def test_a_moment_of_csv_is_in_utc() -> None:
    there = timezone(timedelta(hours=1))
    grant = replace(GRANT, expires_at=datetime(2026, 11, 24, 13, tzinfo=there))
    assert "2026-11-24T12:00:00Z" in CSV.row(grant)


def test_other_forms_have_no_refusals() -> None:
    assert get_format("lines").row(GRANT) == f"{GRANT.key}\t{GRANT.url}\n"
    assert get_format("lines").row(REFUSAL) == ""
    assert get_format("curl", "my file").row(GRANT).startswith("curl ")
