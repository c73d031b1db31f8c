import csv
import json
from datetime import datetime, timedelta, timezone

import pytest

from worker.commands.output import print_rows

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=timezone(timedelta(hours=1)))


def test_a_table_is_aligned_and_its_lines_end_with_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_rows(("key", "at"), [("字", NOON), ("long", None)], None)
    assert capsys.readouterr().out == "key   at\n字    2026-11-24T11:00:00Z\nlong\n"


def test_no_word_of_a_producer_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("key",), [("a\x1b[2J\r\u202eb",)], None)
    assert capsys.readouterr().out == "key\na\\x1b[2J\\r\\u202eb\n"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1"])
def test_no_word_of_a_producer_is_a_formula(capsys: pytest.CaptureFixture[str], text: str) -> None:
    print_rows(("key",), [(text,)], "csv")
    assert capsys.readouterr().out.startswith(("key\n'", "key\n\"'"))


def test_csv_keeps_commas_quotes_and_lines_in_their_cell(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_rows(("key", "reason"), [('a,"b"\nc', None)], "csv")
    assert list(csv.reader(capsys.readouterr().out.splitlines(keepends=True)))[1] == [
        'a,"b"\nc',
        "",
    ]


def test_json_is_one_line_for_each_row_and_exactly_what_was_stored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_rows(("key", "at", "n"), [("=\x1b\n", NOON, None), ("b", None, 1)], "json")
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == {"key": "=\x1b\n", "at": "2026-11-24T11:00:00Z", "n": None}
    assert json.loads(second) == {"key": "b", "at": None, "n": 1}
