import csv
import io
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from unicodedata import normalize

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from valetkey.cli.terminal_text import program_command
from worker.__main__ import main
from worker.shared.output import escape_formula, print_rows

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=timezone(timedelta(hours=1)))


def test_a_table_is_aligned_without_trailing_spaces(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_rows(("key", "at"), [("字", NOON), ("long", None)], None)
    assert capsys.readouterr().out == "key   at\n字    2026-11-24T11:00:00Z\nlong\n"


def test_control_characters_of_a_producer_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("key",), [("a\x1b[2J\r\u202eb",)], None)
    assert capsys.readouterr().out == "key\na\\x1b[2J\\r\\u202eb\n"


@pytest.mark.parametrize(
    "first", "=+-@\u2212\uff1d\uff0b\uff0d\uff20\ufe66\u207a\t\r\n '\xa0\u3000\u200b\ufeff\x00"
)
def test_no_csv_cell_of_a_producer_is_a_formula(
    capsys: pytest.CaptureFixture[str], first: str
) -> None:
    print_rows(("key",), [(f"{first}=1+1",)], "csv")
    (_, (cell,)) = csv.reader(io.StringIO(capsys.readouterr().out, newline=""))
    assert cell == f"'{first}=1+1"


@given(st.text(st.characters(codec="utf-8")))
def test_a_csv_cell_without_its_first_apostrophe_is_the_exact_value(text: str) -> None:
    cell = escape_formula(text)
    assert cell.removeprefix("'") == text
    first = normalize("NFKC", cell.lstrip()[:1])
    assert not first.startswith(tuple("=+-@"))


def test_numbers_in_csv_stay_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("n", "x"), [(-1, -0.5)], "csv")
    assert capsys.readouterr().out == "n,x\n-1,-0.5\n"


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


def test_an_error_names_the_python_of_this_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    result = CliRunner().invoke(main, ["apply", "tenants.toml"])
    assert result.exit_code == 1
    python = program_command("python")
    assert python != "python"
    assert f"No `{python} -m worker dev` runs in {tmp_path}" in result.stderr
