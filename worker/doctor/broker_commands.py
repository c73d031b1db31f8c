"""The commands about the broker: lists workers, and shows, requeues or deletes dead letters."""

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import click

from valetkey.units import format_duration
from worker import clock
from worker.broker.queues import HEARTBEAT_LIFETIME, Heartbeat
from worker.cli.redis_servers import open_broker, open_results
from worker.doctor.dead_letter_list import DeadLetter, read_dead_letters, remove_dead_letters
from worker.shared.command_options import Command, format_options
from worker.shared.output import print_rows
from worker.shared.worker_states import read_heartbeats

_WORKER_COLUMNS = ("worker", "queues", "host", "pid", "release", "started_at", "seen", "problem")


@click.command()
@click.argument("name", required=False)
@format_options
@click.pass_context
def workers(context: click.Context, /, *, name: str | None, output_format: Any) -> None:
    """List workers whose heartbeat is fresh, all or those with this NAME (as in issue@web1).

    A worker writes its heartbeat every 5 seconds, from the loop that takes messages, and is listed
    for 20 seconds after it. Exits with 1 if none is listed.

    \b
    Example:
      python -m worker workers
    """
    with open_results() as client:
        found = [each for each in read_heartbeats(client) if name in {None, each.worker}]
    print_rows(_WORKER_COLUMNS, [_worker_row(each, output_format) for each in found], output_format)
    if not found:
        who = "no worker" if name is None else f"no worker {name}"
        click.echo(
            f"{who} has written a heartbeat in the last {HEARTBEAT_LIFETIME} seconds", err=True
        )
        context.exit(1)


def _worker_row(heartbeat: Heartbeat, output_format: Any) -> tuple[Any, ...]:
    age = format_duration(clock.now() - heartbeat.seen_at)
    return (
        heartbeat.worker,
        list(heartbeat.queues) if output_format == "json" else " ".join(heartbeat.queues),
        heartbeat.host or None,
        heartbeat.pid,
        heartbeat.release or None,
        heartbeat.started_at,
        heartbeat.seen_at if output_format else f"{age} ago",
        "; ".join(heartbeat.problems.values()) or None,
    )


_DEAD_LETTER_COLUMNS = ("id", "set_aside_at", "queue", "task", "bytes", "problem")
_dead_letter_row = attrgetter("id", "set_aside_at", "queue", "task_id", "bytes", "problem")


@click.group()
def deadletters() -> None:
    """Show and handle dead-lettered messages: a worker failed on them.

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
    print_rows(_DEAD_LETTER_COLUMNS, map(_dead_letter_row, found), output_format)


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
    values = dict(zip(_DEAD_LETTER_COLUMNS, _dead_letter_row(dead_letter), strict=True))
    click.echo(json.dumps(values | {"frame": dead_letter.frame}, indent=2, default=str))


@deadletters.command("requeue")
@_selection
def requeue(ids: Sequence[str], *, all_of_them: bool) -> None:
    """Put dead letters back into their queues, for example after an update of the service.

    \b
    Example:
      python -m worker deadletters requeue --all
    """
    _remove("put back", ids, all_of_them=all_of_them, to_queue=True)


@deadletters.command("purge")
@_selection
def purge(ids: Sequence[str], *, all_of_them: bool) -> None:
    """Delete dead letters.

    \b
    Example:
      python -m worker deadletters purge 2f7c1d9a04be
    """
    _remove("deleted", ids, all_of_them=all_of_them, to_queue=False)


def _remove(verb: str, ids: Sequence[str], *, all_of_them: bool, to_queue: bool) -> None:
    if all_of_them is bool(ids):
        raise click.UsageError("name the ids of dead letters, or give --all")
    with open_broker() as client:
        if ids:
            _find(read_dead_letters(client), ids)
        count = remove_dead_letters(client, set(ids) or None, to_queue=to_queue)
    click.echo(f"{count} {verb}.")


def _find(found: Sequence[DeadLetter], ids: Sequence[str]) -> list[DeadLetter]:
    by_id = {dead_letter.id: dead_letter for dead_letter in reversed(found)}
    unknown = [each for each in ids if each not in by_id]
    if unknown:
        raise click.ClickException(f"no dead letter has the id {unknown[0]}: see deadletters list")
    return [by_id[each] for each in ids]
