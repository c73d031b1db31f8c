from typing import Any

import click

from worker.commands.database import open_database
from worker.commands.options import format_options, limit_option
from worker.commands.output import print_page
from worker.db.audit.deliveries import DeliveryRecord, read_deliveries
from worker.db.engine import read_transaction


@click.group()
def deliveries() -> None:
    """See which webhooks are pending, delivered and failed."""


@deliveries.command("list")
@click.option("--state", type=click.Choice(["pending", "delivered", "failed"]))
@click.option("--tenant", help="Only of this tenant.")
@limit_option
@click.option("--after", type=click.IntRange(min=1), help="Begin behind this delivery's number.")
@format_options
@click.pass_context
def list_deliveries(context: click.Context, /, *, form: Any, limit: int, **asked: Any) -> None:
    """List deliveries, newest first. A pending one has the time of its next attempt.

    \b
    Example:
      python -m worker deliveries list --state failed --tenant acme
    """
    with open_database(read_transaction) as connection:
        found = read_deliveries(connection, limit + 1, **asked)
    shown = found[:limit]
    after = shown[-1].number if len(found) > limit else None
    print_page(context, DeliveryRecord._fields, shown, form, after)
