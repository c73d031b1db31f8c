import os
import subprocess
import sys

import click

from tools.terminal import run_in_terminal
from valetkey.cli.terminal_text import format_table

UUID = "0199a000-0000-7000-8000-000000000000"
NAME = "n" * 63
KEY = "acme/" + "k" * 1_019
HEADINGS = ("time", "tenant", "requested_by", "reason", "key", "decision", "grant")
ROW = ("2026-11-24T12:00:00Z", NAME, "nightly", "r" * 200, KEY, "issued", f"{UUID}.0")


def test_a_table_that_fits_has_one_line_a_row() -> None:
    assert format_table([("a", "b"), ("1", "2")], 4) == ["a  b", "1  2"]


def test_a_table_that_is_too_wide_is_folded_by_column_and_so_are_its_headings() -> None:
    rows = [("id", "name", "note"), ("1", "n" * 6, "m" * 6), ("22", "o", "")]
    assert format_table(rows, 12) == [
        "id  name",
        "  note",
        "1   nnnnnn",
        "  mmmmmm",
        "22  o",
    ]


def test_an_empty_cell_keeps_its_line_if_another_line_follows() -> None:
    assert format_table([("aaaa", "bbbb", "cccc"), ("1", "", "3")], 7)[3:] == ["1", "", "  3"]


def test_no_value_is_cut_or_split_at_80_columns() -> None:
    lines = format_table([HEADINGS, ROW], 80)
    for value in ROW:
        assert sum(value in line for line in lines) == 1
    too_wide = [line for line in lines if len(line) > 80]
    assert [line.strip() for line in too_wide] == ["r" * 200, KEY]


def test_sentences_wrap_below_their_column_and_their_words_stay_whole() -> None:
    rows = [("rule", "detail"), ("key", f"{KEY} is not below a prefix that the policy allows")]
    lines = format_table(rows, 40, wrap_last=True)
    assert lines[1:] == [
        f"key   {KEY}",
        "      is not below a prefix that the",
        "      policy allows",
    ]
    assert len(format_table(rows, None, wrap_last=True)) == 2


def test_colours_and_wide_characters_do_not_change_the_columns() -> None:
    rows = [(click.style("字", "red"), "x"), ("long", "y")]
    lines = [click.unstyle(line) for line in format_table(rows, 80)]
    assert lines == ["字    x", "long  y"]


PROGRAM = f"""
from worker.shared.output import print_rows
print_rows({HEADINGS!r}, [{ROW!r}], None)
"""


def test_a_terminal_of_80_columns_gets_a_folded_table_and_a_pipe_does_not() -> None:
    environ = dict(os.environ) | {"COLUMNS": "80"}
    command = [sys.executable, "-c", PROGRAM]
    piped = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert len(piped.stdout.splitlines()) == 2
    in_terminal = [click.unstyle(line) for line in run_in_terminal(command, environ, columns=80)]
    assert [line.split() for line in in_terminal[:2]] == [["time"], ["tenant", "requested_by"]]
    assert f"  {UUID}.0" in [line[-len(UUID) - 4 :] for line in in_terminal]
