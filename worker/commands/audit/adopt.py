"""Covers older rows of the audit log with leaves."""

import json
from dataclasses import asdict
from datetime import datetime

import click
from rich.progress import Progress, SpinnerColumn, TextColumn

from valetkey.cli.results.consoles import stderr_console
from worker import clock
from worker.commands.database import open_engine, operator_account
from worker.commands.options import parse_moment_option
from worker.db.audit.changes import ChangeAuthor
from worker.usecases.audit.adopt import Adopted, adopt_rows


@click.command("adopt")
@click.option(
    "--before",
    required=True,
    callback=parse_moment_option,
    metavar="TIME",
    help="Only rows before this moment, such as that of the update: 2h, 2026-11-24T08:30.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def adopt(*, before: datetime, as_json: bool) -> None:
    """Add leaves for rows of the audit log that have none.

    Releases before 0.3 wrote no leaves, also while a service is updated worker by worker. What this
    command covers is from then on protected like everything else, and not before: look at the rows
    first. The audit log of changes records who ran it.

    What is done stays if the command is interrupted; run again, it continues.

    \b
    Example:
      python -m worker audit adopt --before 2026-11-24T08:30
    """
    if before > clock.now():
        raise click.BadParameter("it is in the future", param_hint="--before")
    author = ChangeAuthor(clock.now(), operator_account(), "audit adopt")
    console = stderr_console()
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} leaves added"))
    hidden = not console.is_terminal
    with (
        # Leaves would lack the columns of a later release.
        open_engine(refuses_later=True) as engine,
        Progress(*columns, console=console, disable=hidden, redirect_stdout=False) as bar,
    ):
        task = bar.add_task("", total=None)
        adopted = adopt_rows(
            engine, before, author, lambda done: bar.update(task, completed=done.total)
        )
    _print(adopted, as_json=as_json)


def _print(adopted: Adopted, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(adopted)))
    elif adopted.total:
        counts = (f"{count:,} {name}" for name, count in asdict(adopted).items() if count)
        click.echo(f"Leaves added for {', '.join(counts)}.")
    else:
        click.echo("All rows before this moment have a leaf: nothing was added.")
