"""Lists the workers that are alive, by their heartbeats."""

from typing import Any

import click

from valetkey.units import format_duration
from worker import clock
from worker.broker.heartbeats import LIFETIME, Heartbeat, read_heartbeats
from worker.commands.broker import open_results
from worker.commands.options import format_options
from worker.commands.output import print_rows

_COLUMNS = ("worker", "queues", "pid", "started_at", "seen")


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
    print_rows(_COLUMNS, [_row(each, output_format) for each in found], output_format)
    if not found:
        who = "no worker" if name is None else f"no worker {name}"
        click.echo(f"{who} has written a heartbeat in the last {LIFETIME} seconds", err=True)
        context.exit(1)


def _row(heartbeat: Heartbeat, output_format: Any) -> tuple[Any, ...]:
    age = format_duration(clock.now() - heartbeat.seen_at)
    return (
        heartbeat.worker,
        list(heartbeat.queues) if output_format == "json" else " ".join(heartbeat.queues),
        heartbeat.pid,
        heartbeat.started_at,
        heartbeat.seen_at if output_format else f"{age} ago",
    )
