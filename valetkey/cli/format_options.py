"""Adds options to commands of both command lines; output formats exclude each other."""

from collections.abc import Callable

import click

Command = Callable[..., None]
Decorator = Callable[[Command], Command]


def add_options(*options: Decorator) -> Decorator:
    """Return a decorator that adds options to a command, in the order of its help."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def format_option(flag: str, text: str) -> Decorator:
    """Return a decorator that adds an option for one output format.

    The command's parameter `output_format` is the flag's name, or None. Click itself would let the
    last of several flags win.
    """
    name = flag.removeprefix("--")
    return click.option(
        flag,
        f"{name}_format",
        flag_value=name,
        expose_value=False,
        callback=_select_format,
        help=text,
    )


def _select_format(context: click.Context, _param: click.Parameter, name: str | None) -> None:
    selected = context.params.setdefault("output_format", None)
    if name is None:
        return
    if selected not in {None, name}:
        raise click.UsageError(f"--{selected} and --{name} exclude each other: give one of them")
    context.params["output_format"] = name
