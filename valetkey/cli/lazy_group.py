"""A group of commands of which each is imported when it runs: help imports none of them."""

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any

import click

_INTERRUPTED = 130  # 128 plus SIGINT, as shells report it

LazyCommands = Mapping[str, tuple[str, str]]
"""By name: "module:attribute", relative to the group's package, and the one-line help."""


class LazyGroup(click.Group):
    """A group whose commands are modules of a package, or of its subpackages."""

    def __init__(self, *, package: str, lazy_commands: LazyCommands, **options: Any) -> None:
        super().__init__(**options)
        self._one_line_helps = {name: text for name, (_, text) in lazy_commands.items()}
        locations = {name: f"{package}.{path}" for name, (path, _) in lazy_commands.items()}
        self.commands = _ImportedCommands(locations)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their one-line helps."""
        listed = click.Group()
        for name in self.commands:
            text = self._one_line_helps.get(name)
            is_lazy = text is not None
            listed.add_command(click.Command(name, help=text) if is_lazy else self.commands[name])
        listed.format_commands(ctx, formatter)


class _ImportedCommands(MutableMapping[str, click.Command]):
    """Commands by name, imported on first access. Knows all names from the start."""

    def __init__(self, locations: Mapping[str, str]) -> None:
        self._commands: dict[str, click.Command | str] = dict(locations)

    def __getitem__(self, name: str) -> click.Command:
        command = self._commands[name]
        if isinstance(command, str):
            module, _, attribute = command.partition(":")
            try:
                command = getattr(import_module(module), attribute)
            except KeyboardInterrupt:
                raise SystemExit(_INTERRUPTED) from None
            self._commands[name] = command
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._commands[name] = command

    def __delitem__(self, name: str) -> None:
        del self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)
