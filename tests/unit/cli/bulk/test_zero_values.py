"""Zero and false in JSON Lines are values: only null and a missing member are no value."""

import io

import pytest

from tests.unit.cli.bulk.test_rows import items_or_codes, parse_content
from valetkey.cli.bulk import rows
from valetkey.cli.bulk.columns import columns_for
from valetkey.cli.bulk.lines import LineReader
from valetkey.wire.terms import Kind


@pytest.mark.parametrize(
    ("kind", "member", "result"),
    [
        ("put", '"size": 0', {"key": "a", "size": 0}),
        ("upload", '"size": 0', {"key": "a", "size": 0}),
        ("upload", '"size": null', {"key": "a"}),
        ("put", '"size": null', "size_required"),
        ("upload", '"size": false', "size_invalid"),
        ("upload", '"size": 0.0', "size_invalid"),
        ("upload", '"checksum": false', "checksum_invalid"),
        ("download", '"expires_in": null', {"key": "a"}),
        ("download", '"expires_in": 0', "expiry_invalid"),
        ("download", '"expires_in": false', "expiry_invalid"),
        ("download", '"filename": 0', "malformed"),
        ("download", '"version_id": false', "malformed"),
    ],
)
def test_zero_and_false_count_as_given_and_null_as_absent(
    kind: Kind, member: str, result: object
) -> None:
    content = f'{{"key": "a", {member}}}'.encode()
    assert items_or_codes(parse_content("jsonl", content, kind)) == [result]


def test_values_that_are_copied_keep_zero_false_and_null_apart() -> None:
    content = b'{"key": "a", "count": 0, "paid": false, "note": "", "account": null}'
    (row,) = rows.read_rows(LineReader(io.BytesIO(content)), "jsonl", columns_for("download"))
    assert isinstance(row, rows.Row)
    assert repr(row.copied) == "{'count': 0, 'paid': False, 'note': '', 'account': None}"
