"""Lists and shows webhooks and manifests, with the attempts to deliver them."""

import json
from functools import partial
from typing import Any

import click
from sqlalchemy import ColumnElement, Select, and_, case, select

from models import Batch, Delivery, DeliveryAttempt, EndpointState, Manifest
from valetkey.cli.format_options import add_options
from valetkey.wire.events import EVENT_TYPES
from worker.base.database_engine import read_transaction
from worker.cli.command_options import (
    ROW_NUMBER,
    TEXT,
    after_number_option,
    chosen_zone,
    format_options,
    limit_option,
    tenant_option,
    zone_option,
)
from worker.cli.database import open_database
from worker.cli.output import format_cell, format_in_zone, print_list, print_rows

_list_options = add_options(tenant_option, limit_option, after_number_option, format_options)
"""Adds the filters of a list, except for its states, and the format."""

endpoint_option = click.option("--endpoint", type=TEXT, help="Only endpoints with this name.")


@click.command("list")
@click.option(
    "--state",
    type=click.Choice(["waiting", "pending", "delivered", "failed"]),
    help="Only webhooks in this state.",
)
@click.option("--event", type=click.Choice(EVENT_TYPES), help="Only webhooks of this type.")
@endpoint_option
@_list_options
def list_deliveries(
    *, state: str | None, event: str | None, endpoint: str | None, **options: Any
) -> None:
    """List webhooks, newest first. next_attempt_at is set while a webhook is pending.

    batch.completed waits until its batch receives no further results. paused_until is set after
    repeated failures of the endpoint: until then, nothing is attempted. `webhooks show` prints the
    attempts of one.

    \b
    Example:
      python -m worker webhooks list --state failed --tenant acme
    """
    is_pending = Delivery.state == "pending"
    is_endpoint = and_(
        EndpointState.tenant == Delivery.tenant, EndpointState.endpoint == Delivery.endpoint
    )
    columns = (
        *(Delivery.delivery_number.label("number"), Delivery.tenant, Delivery.endpoint),
        *(Delivery.event, Batch.batch_id.label("batch"), Delivery.chunk_number.label("chunk")),
        *(case((Delivery.pages > 1, Delivery.page)).label("page"), Delivery.state),
        *(Delivery.attempts, _only_if(is_pending, Delivery.next_attempt_at)),
        *(Delivery.status, Delivery.problem, Delivery.created_at),
        _only_if(is_pending, EndpointState.open_until, "paused_until"),
    )
    query = select(*columns).outerjoin(Batch, Batch.batch_number == Delivery.batch_number)
    query = query.outerjoin(EndpointState, is_endpoint)
    for column, value in ((Delivery.event, event), (Delivery.endpoint, endpoint)):
        query = query if value is None else query.where(column == value)
    _print_list(query, state, options)


@click.command("manifests")
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
      python -m worker webhooks manifests --state failed --tenant acme
    """
    columns = (
        *(Manifest.batch_number.label("number"), Batch.tenant, Batch.batch_id.label("batch")),
        *(Batch.bucket, Manifest.object_key.label("key"), Manifest.state, Manifest.attempts),
        *(_only_if(Manifest.state == "pending", Manifest.next_attempt_at), Manifest.problem),
        Manifest.created_at,
    )
    query = select(*columns).join(Batch, Batch.batch_number == Manifest.batch_number)
    _print_list(query, state, options)


def _only_if(condition: ColumnElement[bool], column: Any, name: str = "next_attempt_at") -> Any:
    return case((condition, column)).label(name)


_SHOWN = select(
    *(Delivery.delivery_number.label("number"), Delivery.tenant, Delivery.endpoint),
    *(Delivery.event, Batch.batch_id.label("batch"), Delivery.chunk_number.label("chunk")),
    *(Delivery.page, Delivery.pages, Delivery.state, Delivery.attempts),
    *(Delivery.status, Delivery.problem, Delivery.duration_ms, Delivery.created_at),
    *(_only_if(Delivery.state == "pending", Delivery.next_attempt_at), Delivery.not_before),
    *(Delivery.finished_at, Delivery.expires_at),
).outerjoin(Batch, Batch.batch_number == Delivery.batch_number)
_ATTEMPTS = select(
    *(DeliveryAttempt.attempted_at, DeliveryAttempt.duration_ms),
    *(DeliveryAttempt.status, DeliveryAttempt.problem),
).order_by(DeliveryAttempt.attempt_number)


@click.command("show")
@click.argument("number", metavar="NUMBER", type=ROW_NUMBER)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@zone_option
def show_delivery(*, number: int, as_json: bool, **_: Any) -> None:
    """Show a webhook, and each attempt to deliver it. NUMBER is that of `webhooks list`.

    attempts counts those since it was created or sent again. Times are those at which attempts
    began; of the one that succeeded, that at which it ended.

    \b
    Example:
      python -m worker webhooks show 1042
    """
    zone = chosen_zone(click.get_current_context())
    with open_database(read_transaction) as connection:
        row = connection.execute(_SHOWN.where(Delivery.delivery_number == number)).one_or_none()
        if row is None:
            text = f"there is no webhook {number}: see python -m worker webhooks list"
            raise click.BadParameter(text, param_hint="NUMBER")
        log = list(connection.execute(_ATTEMPTS.where(DeliveryAttempt.delivery_number == number)))
    columns = tuple(_ATTEMPTS.selected_columns.keys())
    attempts = [tuple(attempt) for attempt in log]
    if row.state == "delivered":
        attempts.append((row.finished_at, row.duration_ms, row.status, None))
    if as_json:
        entries = [dict(zip(columns, each, strict=True)) for each in attempts]
        values = row._asdict() | {"log": entries}
        click.echo(json.dumps(values, default=partial(format_in_zone, zone=zone)))
        return
    for name, value in row._asdict().items():
        if value is not None:
            click.echo(f"{name:<16}{format_cell(value, zone)}")
    if attempts:
        click.echo()
        print_rows(columns, attempts, None, zone=zone)


def _print_list(query: Select[*tuple[Any, ...]], state: str | None, options: Any) -> None:
    """Print a page of rows, those with the highest numbers first."""
    columns = query.selected_columns
    query = query.order_by(columns.number.desc())
    if state is not None:
        query = query.where(columns.state == state)
    print_list(query, options, checks_tenant=False)
