"""Lists webhook deliveries and manifests."""

from operator import attrgetter
from typing import Any

import click

from worker.base.database_engine import read_transaction
from worker.cli.command_options import (
    after_number_option,
    format_options,
    limit_option,
    tenant_option,
)
from worker.cli.database import open_database
from worker.cli.output import print_page
from worker.webhooks.delivery_lists import (
    DeliveryRecord,
    ManifestRecord,
    read_deliveries,
    read_manifests,
)


@click.group()
def deliveries() -> None:
    """Show which webhooks and manifests are pending, delivered or failed."""


@deliveries.command("list")
@click.option(
    "--state",
    type=click.Choice(["pending", "delivered", "failed"]),
    help="Only deliveries in this state.",
)
@tenant_option
@limit_option
@after_number_option
@format_options
@click.pass_context
def list_deliveries(
    context: click.Context, /, *, output_format: Any, limit: int, **filters: Any
) -> None:
    """List deliveries, newest first. next_attempt_at is set while a delivery is pending.

    paused_until is set after repeated failures of its endpoint: until then, none is attempted.
    event is the type of a webhook about uploads; the delivery of an outcome has none.

    \b
    Example:
      python -m worker deliveries list --state failed --tenant acme
    """
    with open_database(read_transaction) as connection:
        page = read_deliveries(connection, limit, **filters)
    print_page(context, DeliveryRecord._fields, page, attrgetter("number"), output_format)


@deliveries.command("manifests")
@click.option(
    "--state",
    type=click.Choice(["pending", "written", "failed"]),
    help="Only manifests in this state.",
)
@tenant_option
@limit_option
@after_number_option
@format_options
@click.pass_context
def list_manifests(
    context: click.Context, /, *, output_format: Any, limit: int, **filters: Any
) -> None:
    """List manifests, newest first, with storage's words if it refused one.

    \b
    Example:
      python -m worker deliveries manifests --state failed --tenant acme
    """
    with open_database(read_transaction) as connection:
        page = read_manifests(connection, limit, **filters)
    print_page(context, ManifestRecord._fields, page, attrgetter("number"), output_format)
