"""Lets commands without settings speak to a running `dev`, as `valetkey` does, and say so."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from worker.setting_names import names_service

# `dev` starts its own service. `run` must not add workers to one by accident, and `migrate` must
# not change another database than the one that it is told: `dev` migrates its own.
_INDEPENDENT = {"dev", "run", "migrate", "contract"}
_QUIET = {"--json", "--csv"}  # for programs, which may read stderr with stdout
_HELP = {"-h", "--help"}


def use_running_dev(context: click.Context, words: Sequence[str]) -> None:
    """Configure the command in `words` for the running `dev`, until the context closes.

    Settings of the environment take precedence.
    """
    command = next((word for word in words if not word.startswith("-")), None)
    if command is None or command in _INDEPENDENT or _HELP & set(words):
        return
    if names_service(os.environ):
        return
    from worker.devstack.folder import FolderUnusable  # noqa: PLC0415 - others do without them
    from worker.devstack.running import find_running_dev  # noqa: PLC0415

    try:
        running = find_running_dev(os.environ, Path.cwd())
    except FolderUnusable as error:
        raise click.ClickException(str(error)) from None
    if running is None:
        return
    context.obj = running
    context.with_resource(running.configuring(os.environ))
    if not _QUIET & set(words):
        click.echo(f"Using the service of `python -m worker dev` in {running.data}.", err=True)
