"""The groups of commands, of which each command is imported when it is first used."""

from valetkey.cli.command_groups import LazyGroup
from worker.features import command_groups, contributions

COMMANDS = command_groups()
"""The commands by their group, and under an empty name those without one."""


def command_group(name: str) -> LazyGroup:
    """Return a group with the commands that all features give to it."""
    text = contributions("groups")[name]
    return LazyGroup(name=name, help=text, package="worker", lazy_commands=COMMANDS[name])
