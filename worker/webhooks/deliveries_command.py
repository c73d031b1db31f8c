"""Lists webhook deliveries and manifests; the group of commands about webhooks."""

from typing import Any

import click
from sqlalchemy import ColumnElement, Select, and_, case, select

from models import Batch, Delivery, EndpointState, Manifest
from valetkey.cli.format_options import add_options
from worker.cli.command_options import (
    after_number_option,
    format_options,
    limit_option,
    tenant_option,
)
from worker.cli.output import print_list
from worker.webhooks.secret_commands import key, secret


@click.group()
def deliveries() -> None:
    """Show which webhooks and manifests are pending, delivered or failed; manage secrets."""


_list_options = add_options(tenant_option, limit_option, after_number_option, format_options)
"""Adds the filters of a list, except for its states, and the format."""


@deliveries.command("list")
@click.option(
    "--state",
    type=click.Choice(["pending", "delivered", "failed"]),
    help="Only deliveries in this state.",
)
@_list_options
def list_deliveries(*, state: str | None, **options: Any) -> None:
    """List deliveries, newest first. next_attempt_at is set while a delivery is pending.

    paused_until is set after repeated failures of its endpoint: until then, none is attempted.
    event is the type of a webhook about uploads; the delivery of an outcome has none.

    \b
    Example:
      python -m worker deliveries list --state failed --tenant acme
    """
    is_pending = Delivery.state == "pending"
    is_endpoint = and_(
        EndpointState.tenant == Delivery.tenant, EndpointState.endpoint == Delivery.endpoint
    )
    columns = (
        *(Delivery.delivery_number.label("number"), Delivery.tenant, Delivery.endpoint),
        *(Batch.batch_id.label("batch"), Delivery.chunk_number.label("chunk"), Delivery.state),
        *(Delivery.attempts, _only_if(is_pending, Delivery.next_attempt_at)),
        *(Delivery.status, Delivery.problem, Delivery.created_at),
        *(_only_if(is_pending, EndpointState.open_until, "paused_until"), Delivery.event),
    )
    query = select(*columns).join(Batch, Batch.batch_number == Delivery.batch_number)
    _print_list(query.outerjoin(EndpointState, is_endpoint), state, options)


@deliveries.command("manifests")
@click.option(
    "--state",
    type=click.Choice(["pending", "written", "failed"]),
    help="Only manifests in this state.",
)
@_list_options
def list_manifests(*, state: str | None, **options: Any) -> None:
    """List manifests, newest first, with storage's words if it refused one.

    \b
    Example:
      python -m worker deliveries manifests --state failed --tenant acme
    """
    columns = (
        *(Manifest.batch_number.label("number"), Batch.tenant, Batch.batch_id.label("batch")),
        *(Batch.bucket, Manifest.object_key.label("key"), Manifest.state, Manifest.attempts),
        *(_only_if(Manifest.state == "pending", Manifest.next_attempt_at), Manifest.problem),
        Manifest.created_at,
    )
    query = select(*columns).join(Batch, Batch.batch_number == Manifest.batch_number)
    _print_list(query, state, options)


deliveries.add_command(secret)
deliveries.add_command(key)


def _only_if(condition: ColumnElement[bool], column: Any, name: str = "next_attempt_at") -> Any:
    return case((condition, column)).label(name)


def _print_list(query: Select[*tuple[Any, ...]], state: str | None, options: Any) -> None:
    """Print a page of rows, those with the highest numbers first."""
    columns = query.selected_columns
    query = query.order_by(columns.number.desc())
    if state is not None:
        query = query.where(columns.state == state)
    print_list(query, options, checks_tenant=False)
