"""Columns of an input that are copied to the output, or left out."""

import io

import pytest

from tests.unit.cli.bulk.test_rows import items_or_codes, parse_content
from valetkey.cli.bulk import rows
from valetkey.cli.bulk.columns import columns_for
from valetkey.cli.bulk.lines import LineReader
from valetkey.cli.bulk.rows import Row


@pytest.mark.parametrize("ignored", [("note", "size"), ("*",)])
def test_ignored_columns_are_skipped(ignored: tuple[str, ...]) -> None:
    csv = b"note,key,size\n\xff,a,x\n"
    assert items_or_codes(parse_content("csv", csv, ignored=ignored)) == [{"key": "a"}]
    assert items_or_codes(parse_content("jsonl", b'{"key": "a", "size": []}', ignored=ignored)) == [
        {"key": "a"}
    ]


def test_other_columns_are_copied() -> None:
    columns, content = columns_for("download", ("note",)), b"note,mail,key\nx,a@b.c,k\n,,\n"
    read = rows.read_rows(LineReader(io.BytesIO(content)), "csv", columns)
    assert [row.copied for row in read if isinstance(row, Row)] == [{"mail": "a@b.c"}, {"mail": ""}]


def test_a_column_that_resembles_one_of_ours_is_copied_if_it_is_named() -> None:
    columns = columns_for("download", copied=("expires",))
    read = rows.read_rows(LineReader(io.BytesIO(b"key,expires\nk,soon\n")), "csv", columns)
    assert [row.copied for row in read if isinstance(row, Row)] == [{"expires": "soon"}]


@pytest.mark.parametrize("name", ["URL", "url ", "Headers", "fields."])
def test_a_column_that_readers_may_take_for_the_link_is_copied_only_if_it_is_named(
    name: str,
) -> None:
    problem = columns_for("download").reject_copy(name)
    assert problem is not None
    assert "resembles the output's own column" in problem
    assert columns_for("download", copied=(name,)).reject_copy(name) is None
