"""The commands of both command lines, of which only the one that runs is imported."""

import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from tests.support.features import needs
from valetkey.cli.command_groups import LazyGroup
from valetkey.cli.main import main as valetkey
from worker.__main__ import main as worker

WIDE = 500  # columns, so that no help is cut


def imported(group: LazyGroup, name: str) -> click.Command:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    return command


def lazy_groups(group: LazyGroup, path: str) -> Iterator[tuple[str, LazyGroup]]:
    yield path, group
    for name in group.commands:
        command = imported(group, name)
        if isinstance(command, LazyGroup):
            yield from lazy_groups(command, f"{path} {name}")


GROUPS = dict([*lazy_groups(worker, "worker"), *lazy_groups(valetkey, "valetkey")])
COMMANDS = [
    pytest.param(group, name, id=f"{path} {name}")
    for path, group in GROUPS.items()
    for name in group.commands
]


@needs("audit")
@needs("webhooks")
def test_the_groups_of_many_commands_are_lazy() -> None:
    assert set(GROUPS) == {"worker", "worker audit", "worker webhooks", "valetkey"}


@pytest.mark.parametrize(("group", "name"), COMMANDS)
def test_a_command_can_be_imported_under_its_name(group: LazyGroup, name: str) -> None:
    assert imported(group, name).name == name


@pytest.mark.parametrize(("group", "name"), COMMANDS)
def test_the_help_of_a_group_has_the_first_sentence_of_a_command(
    group: LazyGroup, name: str
) -> None:
    formatter = click.HelpFormatter(width=WIDE)
    group.format_commands(click.Context(group), formatter)
    listed = dict(line.split(maxsplit=1) for line in formatter.getvalue().splitlines()[1:])
    assert listed[name] == imported(group, name).get_short_help_str(WIDE)


PACKAGE = "tests.support.cli"


@pytest.fixture
def group() -> LazyGroup:
    lazy_commands = {"echo": "lazy_command:echo"}
    return LazyGroup(name="group", package=PACKAGE, lazy_commands=lazy_commands)


def test_a_misspelt_command_is_suggested_without_importing_any(group: LazyGroup) -> None:
    result = CliRunner().invoke(group, ["ecko"])
    assert (result.exit_code, "Did you mean 'echo'?" in result.output) == (2, True)
    assert f"{PACKAGE}.lazy_command" not in sys.modules


def test_a_command_can_be_added(group: LazyGroup) -> None:
    group.add_command(click.Command("third", help="Do nothing."))
    assert group.list_commands(click.Context(group)) == ["echo", "third"]
    assert "third  Do nothing." in CliRunner().invoke(group, ["--help"]).output
