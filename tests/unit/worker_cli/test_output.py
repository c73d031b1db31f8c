import csv
import json
from datetime import datetime, timedelta, timezone

import pytest

from worker.cli.output import print_rows

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=timezone(timedelta(hours=1)))


def test_a_table_is_aligned_without_trailing_spaces(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_rows(("key", "at"), [("字", NOON), ("long", None)], None)
    assert capsys.readouterr().out == "key   at\n字    2026-11-24T11:00:00Z\nlong\n"


def test_control_characters_of_a_producer_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("key",), [("a\x1b[2J\r\u202eb",)], None)
    assert capsys.readouterr().out == "key\na\\x1b[2J\\r\\u202eb\n"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1"])
def test_no_csv_cell_of_a_producer_is_a_formula(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    print_rows(("key",), [(text,)], "csv")
    assert capsys.readouterr().out.startswith(("key\n'", "key\n\"'"))


def test_csv_keeps_commas_quotes_and_line_breaks_in_their_cell(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_rows(("key", "reason"), [('a,"b"\nc', None)], "csv")
    assert list(csv.reader(capsys.readouterr().out.splitlines(keepends=True)))[1] == [
        'a,"b"\nc',
        "",
    ]


def test_json_has_one_line_for_each_row_with_the_stored_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_rows(("key", "at", "n"), [("=\x1b\n", NOON, None), ("b", None, 1)], "json")
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == {"key": "=\x1b\n", "at": "2026-11-24T11:00:00Z", "n": None}
    assert json.loads(second) == {"key": "b", "at": None, "n": 1}
