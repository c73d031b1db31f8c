"""Sends webhooks again: named ones, those of a batch, those that failed, or that were missed.

A row only becomes due again. As at every attempt, it is rendered under the policy of that time, and
not sent if that or a revocation forbids it.
"""

from collections.abc import Mapping
from datetime import datetime
from itertools import chain
from typing import Any

import click
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    and_,
    case,
    func,
    literal_column,
    or_,
    select,
    update,
)

from models import Batch, Delivery
from worker import clock
from worker.base.database_engine import read_transaction, write_transaction
from worker.cli.database import open_engine
from worker.shared.command_options import (
    TEXT,
    parse_moment_option,
    refuse_empty_range,
    tenant_option,
    zone_option,
)
from worker.shared.tenant_history import check_tenant_option, is_of_tenant
from worker.webhooks.batch_completion import EVENT_LIFETIME
from worker.webhooks.commands.delivery_commands import endpoint_option, find_deliveries
from worker.webhooks.endpoint_states import read_health
from worker.webhooks.outbox import MAX_CHANGED
from worker.webhooks.turns import TurnKey

_MAX_UNCONFIRMED = 1_000

# Not parameters: the partial index is used only if the statement itself contains this text.
_IS_FAILED = Delivery.state == literal_column("'failed'")
_HAS_LINKS = Delivery.event == "grants.decided"


@click.command()
@click.argument("names", metavar="[ID]...", nargs=-1, type=TEXT)
@click.option("--batch", type=TEXT, help="All webhooks of the batch with this id.")
@click.option("--failed", is_flag=True, help="With --since: those that failed.")
@click.option(
    "--missed",
    is_flag=True,
    help="With --since: those that ended without one attempt, because their endpoint was paused or"
    " disabled.",
)
@click.option(
    "--since",
    callback=parse_moment_option,
    help="Created at or after this time: 2h, yesterday, or 2026-11-24T08:30 (UTC).",
)
@tenant_option
@endpoint_option
@zone_option
@click.option("--yes", is_flag=True, help=f"Send more than {_MAX_UNCONFIRMED:,} webhooks.")
def resend(*, yes: bool, zone: Any, **options: Any) -> None:  # noqa: ARG001 - of --since
    """Send webhooks again, with the same id and ten attempts.

    ID is the number in `webhooks list`, or the webhook-id. Links are signed again by today's
    policy. A webhook whose links have expired is not sent, nor one that is being sent. Nothing is
    sent if an endpoint is disabled.

    \b
    Examples:
      python -m worker webhooks resend 1042 1043
      python -m worker webhooks resend --failed --missed --since 2d --tenant acme
    """
    _check(options)
    now = clock.now()
    with open_engine() as engine:
        with read_transaction(engine) as connection:
            check_tenant_option(connection, options["tenant"])
            condition = _condition(connection, options)
            _refuse_disabled(connection, condition)
            counts = select(func.count(), func.count(case((_has_expired(now), 1))))
            total, expired = connection.execute(counts.where(condition)).one()
        count = total - expired
        unsent = _expired_text(expired)
        if not count:
            raise click.ClickException(f"There is nothing to send again.{unsent}")
        if count > _MAX_UNCONFIRMED and not yes:
            text = f"This would send {count:,} webhooks: narrow it with --endpoint, or give --yes."
            raise click.ClickException(text)
        sent = _send_again(engine, condition, now)
    click.echo(f"{sent:,} {_be(sent)} sent again.{unsent}")


def _check(options: Mapping[str, Any]) -> None:
    by_time = options["failed"] or options["missed"]
    if sum([bool(options["names"]), options["batch"] is not None, by_time]) != 1:
        raise click.UsageError(
            "name webhooks, or give --batch, or give --failed, --missed or both with --since"
        )
    if by_time is not (options["since"] is not None):
        raise click.UsageError("--failed and --missed need --since, and --since one of them")
    refuse_empty_range(options["since"], None)


def _condition(connection: Connection, options: Mapping[str, Any]) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = []
    if options["names"]:
        found = [find_deliveries(connection, name) for name in options["names"]]
        conditions.append(Delivery.delivery_number.in_(chain.from_iterable(found)))
    elif options["batch"] is not None:
        named = select(Batch.batch_number).where(Batch.batch_id == options["batch"])
        conditions.append(Delivery.batch_number.in_(named))
    else:
        wanted = [Delivery.attempts > 0] * options["failed"]
        wanted += [Delivery.attempts == 0] * options["missed"]
        conditions += [_IS_FAILED, Delivery.created_at >= options["since"], or_(*wanted)]
    if options["tenant"] is not None:
        conditions.append(is_of_tenant(connection, Delivery.tenant, options["tenant"]))
    if options["endpoint"] is not None:
        conditions.append(Delivery.endpoint == options["endpoint"])
    # Not one that waits for its batch to be complete, or that is being sent.
    is_idle = Delivery.state.in_(["delivered", "failed", "pending"]), Delivery.lease.is_(None)
    return and_(*conditions, *is_idle)


def _refuse_disabled(connection: Connection, condition: ColumnElement[bool]) -> None:
    states = read_health(connection)
    endpoints = select(Delivery.tenant, Delivery.endpoint).where(condition).distinct()
    for endpoint in connection.execute(endpoints):
        health = states.get(TurnKey(*endpoint))
        if health is not None and health.disabled_at is not None:
            name = "/".join(endpoint)
            text = f"{name} is disabled: python -m worker webhooks enable {name}"
            raise click.ClickException(text)


def _has_expired(now: datetime) -> ColumnElement[bool]:
    expires_at = Delivery.expires_at
    return and_(_HAS_LINKS, expires_at.is_not(None), expires_at <= now)


def _be(number: int) -> str:
    return "is" if number == 1 else "are"


def _expired_text(expired: int) -> str:
    have = "has" if expired == 1 else "have"
    return f" {expired:,} {have} expired, and {_be(expired)} not sent." if expired else ""


def _send_again(engine: Engine, condition: ColumnElement[bool], now: datetime) -> int:
    """Make webhooks pending again, in several transactions; return how many."""
    values: dict[str, Any] = {
        "state": "pending",
        "attempts": 0,
        "next_attempt_at": case((Delivery.not_before > now, Delivery.not_before), else_=now),
        "status": None,
        "problem": None,
        "duration_ms": None,
        "finished_at": None,
        "expires_at": case((_HAS_LINKS, Delivery.expires_at), else_=now + EVENT_LIFETIME),
    }
    query = select(Delivery.delivery_number).where(condition, ~_has_expired(now))
    query = query.order_by(Delivery.delivery_number).limit(MAX_CHANGED)
    sent, last = 0, 0
    while True:
        with write_transaction(engine) as connection:
            following = query.where(Delivery.delivery_number > last)
            # What another transaction has locked is being sent.
            numbers = connection.scalars(following.with_for_update(skip_locked=True)).all()
            if not numbers:
                return sent
            are_named = Delivery.delivery_number.in_(numbers)
            connection.execute(update(Delivery).where(are_named).values(values))
        sent, last = sent + len(numbers), numbers[-1]
