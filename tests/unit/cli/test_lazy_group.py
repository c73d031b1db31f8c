import sys

import click
import pytest
from click.testing import CliRunner

from valetkey.cli.lazy_group import LazyGroup

PACKAGE = "tests.support.cli"
COMMANDS = {
    "echo": ("lazy_command:echo", "Print a word."),
    "absent": ("no_such_module:absent", "Never import this."),
}


@pytest.fixture
def group() -> LazyGroup:
    return LazyGroup(name="group", package=PACKAGE, lazy_commands=COMMANDS)


def test_a_misspelt_command_is_suggested_without_importing_any(group: LazyGroup) -> None:
    result = CliRunner().invoke(group, ["ecko"])
    assert (result.exit_code, "Did you mean 'echo'?" in result.output) == (2, True)
    assert f"{PACKAGE}.lazy_command" not in sys.modules


def test_a_command_can_be_added(group: LazyGroup) -> None:
    group.add_command(click.Command("third", help="Do nothing."))
    assert group.list_commands(click.Context(group)) == ["absent", "echo", "third"]
    assert "third   Do nothing." in CliRunner().invoke(group, ["--help"]).output
