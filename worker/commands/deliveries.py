from typing import Any

import click

from worker.adapters.database import reading
from worker.adapters.delivery_log import Entry, entries
from worker.commands.opened import opened
from worker.commands.output import form_options, limit_option, show_page


@click.group()
def deliveries() -> None:
    """See which webhooks are pending, delivered and failed."""


@deliveries.command("list")
@click.option("--state", type=click.Choice(["pending", "delivered", "failed"]))
@click.option("--tenant", help="Only of this tenant.")
@limit_option
@click.option("--after", type=click.IntRange(min=1), help="Begin behind this delivery's number.")
@form_options
@click.pass_context
def list_deliveries(context: click.Context, /, *, form: Any, limit: int, **asked: Any) -> None:
    """List deliveries, newest first. A pending one has the time of its next attempt.

    \b
    Example:
      python -m worker deliveries list --state failed --tenant acme
    """
    with opened(reading) as connection:
        found = entries(connection, limit + 1, **asked)
    shown = found[:limit]
    after = shown[-1].number if len(found) > limit else None
    show_page(context, Entry._fields, shown, form, after)
