"""What commands ask on the terminal, and how they name other commands."""

import sys

import click


def confirm(question: str, unconfirmed: str | None = None) -> None:
    """Ask a yes-or-no question on the terminal. Raises click.Abort after any other answer.

    Raises click.ClickException without a terminal, with the text unconfirmed if there is one.
    """
    if not sys.stdin.isatty():
        text = unconfirmed or "there is no terminal to confirm this on: give --yes"
        raise click.ClickException(text)
    click.confirm(question, abort=True, err=True)


ROW_NUMBER = click.IntRange(1, 2**63 - 1)  # a larger one fits no database

_PROGRAM = "python -m worker"


def with_programs(text: str) -> str:
    """Return a text whose `python -m worker` commands start the Python of this environment."""
    from valetkey.cli.terminal_text import program_command  # noqa: PLC0415 - it loads rich

    return text.replace(_PROGRAM, f"{program_command('python')} -m worker")
