"""Shows messages that were set aside, puts them back into their queues, or deletes them."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from worker.broker.dead_letters import (
    DeadLetter,
    purge_dead_letters,
    read_dead_letters,
    requeue_dead_letters,
)
from worker.commands.broker import open_broker
from worker.commands.options import Command, format_options
from worker.commands.output import print_rows

_COLUMNS = ("id", "set_aside_at", "queue", "task", "bytes", "problem")


@click.group()
def deadletters() -> None:
    """Show and handle messages that were set aside because a worker failed on them.

    The newest 100 are kept in the broker. A request that is put back and was answered before is
    not charged again.
    """


def _selection(command: Command) -> Command:
    """Add IDS and --all to a command."""
    ids = click.argument("ids", nargs=-1)
    every = click.option("--all", "all_of_them", is_flag=True, help="All dead letters.")
    return ids(every(command))


@deadletters.command("list")
@format_options
def list_dead_letters(output_format: Any) -> None:
    """List dead letters, newest first.

    \b
    Example:
      python -m worker deadletters list
    """
    with open_broker() as client:
        found = read_dead_letters(client)
    print_rows(_COLUMNS, [_row(dead_letter) for dead_letter in found], output_format)


@deadletters.command("show")
@click.argument("dead_letter_id", metavar="ID")
def show_dead_letter(dead_letter_id: str) -> None:
    """Print one dead letter as JSON, with the whole message.

    A message contains the request: its object keys and its sender. It contains no links.

    \b
    Example:
      python -m worker deadletters show 2f7c1d9a04be
    """
    with open_broker() as client:
        (dead_letter,) = _find(read_dead_letters(client), (dead_letter_id,))
    values = dict(zip(_COLUMNS, _row(dead_letter), strict=True)) | {"frame": dead_letter.frame}
    click.echo(json.dumps(values, indent=2, default=str))


@deadletters.command("requeue")
@_selection
def requeue(ids: Sequence[str], *, all_of_them: bool) -> None:
    """Put dead letters back into their queues, for example after an update of the service.

    \b
    Example:
      python -m worker deadletters requeue --all
    """
    _handle(requeue_dead_letters, "put back", ids, all_of_them=all_of_them)


@deadletters.command("purge")
@_selection
def purge(ids: Sequence[str], *, all_of_them: bool) -> None:
    """Delete dead letters.

    \b
    Example:
      python -m worker deadletters purge 2f7c1d9a04be
    """
    _handle(purge_dead_letters, "deleted", ids, all_of_them=all_of_them)


def _handle(
    action: Callable[[Any, set[str] | None], int],
    verb: str,
    ids: Sequence[str],
    *,
    all_of_them: bool,
) -> None:
    if all_of_them is bool(ids):
        raise click.UsageError("name the ids of dead letters, or give --all")
    with open_broker() as client:
        if ids:
            _find(read_dead_letters(client), ids)
        count = action(client, None if all_of_them else set(ids))
    click.echo(f"{count} {verb}.")


def _find(found: Sequence[DeadLetter], ids: Sequence[str]) -> list[DeadLetter]:
    by_id = {dead_letter.id: dead_letter for dead_letter in reversed(found)}
    unknown = [each for each in ids if each not in by_id]
    if unknown:
        raise click.ClickException(f"no dead letter has the id {unknown[0]}: see deadletters list")
    return [by_id[each] for each in ids]


def _row(dead_letter: DeadLetter) -> tuple[Any, ...]:
    return (
        dead_letter.id,
        dead_letter.set_aside_at,
        dead_letter.queue,
        dead_letter.task_id,
        dead_letter.bytes,
        dead_letter.problem,
    )
