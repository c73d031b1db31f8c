"""The command line of the benchmarks."""

import pytest
from click.testing import CliRunner

from bench.__main__ import PARTS, main


def test_help_names_every_part_whole() -> None:
    result = CliRunner().invoke(main, ["--help"], terminal_width=80)
    assert result.exit_code == 0
    words = {word.strip(",.") for word in result.output.split()}
    assert set(PARTS) <= words


@pytest.mark.parametrize("words", [["signng"], ["--links", "0"], ["--compare", "no-such.json"]])
def test_a_wrong_use_measures_nothing(words: list[str]) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert result.output.startswith("Usage: ")
