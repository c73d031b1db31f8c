"""The groups of the operator's commands, empty where their feature was deleted."""

from valetkey.cli.command_groups import LazyGroup
from worker.cli.groups import COMMANDS, command_group


def group(name: str) -> LazyGroup:
    empty = LazyGroup(name=name, package="worker", lazy_commands={})
    return command_group(name) if name in COMMANDS else empty


audit, webhooks = group("audit"), group("webhooks")
