"""Lists and shows webhooks and manifests, with the attempts to deliver them."""

import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import click
from sqlalchemy import ColumnElement, Connection, Select, and_, case, select

from models import Batch, Delivery, DeliveryAttempt, EndpointState, Manifest
from valetkey.cli.format_options import add_options
from valetkey.wire.events import EVENT_TYPES
from worker.base.database_engine import read_transaction
from worker.cli.database import open_database
from worker.shared.command_options import (
    TEXT,
    after_number_option,
    chosen_zone,
    format_options,
    limit_option,
    tenant_option,
    zone_option,
)
from worker.shared.output import format_cell, format_in_zone, print_list, print_rows
from worker.webhooks.webhook_rules import WebhookName

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
    *(Delivery.finished_at, Delivery.expires_at, Delivery.group_id),
).outerjoin(Batch, Batch.batch_number == Delivery.batch_number)
_BATCH_ID_LENGTH = 36
_is_number = re.compile(r"[0-9]{1,18}", re.ASCII).fullmatch  # more digits fit no database


def find_deliveries(connection: Connection, name: str) -> dict[int, dict[str, Any]]:
    """Return the webhook of a number, or those of a webhook-id, as values to show by number.

    Several endpoints may receive an event with the same id. Raises click.BadParameter.
    """
    found = {}
    for row in connection.execute(_SHOWN.where(_may_have(name)).order_by(Delivery.delivery_number)):
        *values, group_id = row
        id_ = WebhookName(
            row.event, row.tenant, row.batch, row.chunk, row.page, row.pages, group_id
        ).webhook_id
        if name in {str(row.number), id_}:
            shown = dict(zip(row._fields, values, strict=False))
            found[row.number] = {"number": row.number, "webhook_id": id_} | shown
    if not found:
        text = f"there is no webhook {name}: see python -m worker webhooks list"
        raise click.BadParameter(text, param_hint="ID")
    return found


def _may_have(name: str) -> ColumnElement[bool]:
    """Return a condition, by an index, that is true for webhooks of this number or webhook-id."""
    if _is_number(name):
        return Delivery.delivery_number == int(name)
    for event in EVENT_TYPES:
        tenant, _, group_id = name.partition(f"-{event.replace('.', '-')}-")
        if group_id:
            is_group = Delivery.tenant == tenant, Delivery.group_id == group_id
            return and_(Delivery.batch_number.is_(None), Delivery.event == event, *is_group)
    return Batch.batch_id == name[:_BATCH_ID_LENGTH]


_ATTEMPTS = select(
    *(DeliveryAttempt.attempted_at, DeliveryAttempt.duration_ms),
    *(DeliveryAttempt.status, DeliveryAttempt.problem),
).order_by(DeliveryAttempt.attempt_number)
_ATTEMPT_COLUMNS = ("attempted_at", "duration_ms", "status", "problem")


@click.command("show")
@click.argument("name", metavar="ID", type=TEXT)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each webhook.")
@zone_option
def show_delivery(*, name: str, as_json: bool, **_: Any) -> None:
    """Show a webhook, and each attempt to deliver it.

    ID is the number in `webhooks list`, or the webhook-id that the receiver got. attempts counts
    those since it was created or sent again. Times are those at which attempts began; of the one
    that succeeded, that at which it ended.

    \b
    Example:
      python -m worker webhooks show 1042
    """
    zone = chosen_zone(click.get_current_context())
    with open_database(read_transaction) as connection:
        found = find_deliveries(connection, name).values()
        shown = [(values, _read_attempts(connection, values)) for values in found]
    for values, attempts in shown:
        if as_json:
            log = [dict(zip(_ATTEMPT_COLUMNS, each, strict=True)) for each in attempts]
            click.echo(
                json.dumps(values | {"log": log}, default=partial(format_in_zone, zone=zone))
            )
            continue
        for label, value in values.items():
            if value is not None:
                click.echo(f"{label:<16}{format_cell(value, zone)}")
        if attempts:
            click.echo()
            print_rows(_ATTEMPT_COLUMNS, attempts, None, zone=zone)


def _read_attempts(connection: Connection, shown: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return the failed attempts of a webhook, and the one that succeeded."""
    query = _ATTEMPTS.where(DeliveryAttempt.delivery_number == shown["number"])
    attempts = [tuple(attempt) for attempt in connection.execute(query)]
    if shown["state"] == "delivered":
        attempts.append((shown["finished_at"], shown["duration_ms"], shown["status"], None))
    return attempts


def _print_list(query: Select[*tuple[Any, ...]], state: str | None, options: Any) -> None:
    """Print a page of rows, those with the highest numbers first."""
    columns = query.selected_columns
    query = query.order_by(columns.number.desc())
    if state is not None:
        query = query.where(columns.state == state)
    print_list(query, options, checks_tenant=False)
