"""Lists, disables and enables the endpoints that receive webhooks."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import click

from valetkey.units import format_duration
from worker import clock
from worker.base.database_engine import read_transaction, write_transaction
from worker.cli.database import open_database, open_engine, operator_account
from worker.ledger.tenant_rows import load_config
from worker.rules.tenant_config import TenantConfig
from worker.shared.command_options import format_options, tenant_option
from worker.shared.output import print_rows
from worker.shared.tenant_history import check_tenant_option
from worker.webhooks.commands.endpoint_names import endpoint_argument, find_endpoint
from worker.webhooks.endpoint_states import (
    EndpointFigures,
    Failure,
    disable_endpoint,
    enable_endpoint,
    last_failures,
    read_figures,
    read_health,
)
from worker.webhooks.outbox import PendingWebhooks, bring_forward, pending_webhooks
from worker.webhooks.turns import TurnKey
from worker.webhooks.webhook_rules import EndpointHealth, latency_quantile

_LAST_DAY = timedelta(days=1)


class _EndpointRow(NamedTuple):
    """A row of `endpoints` as JSON and CSV. since is the time from which the state holds."""

    tenant: str
    endpoint: str
    state: str
    since: datetime | None
    succeeded: int
    failed: int
    p50_ms: float | None
    p95_ms: float | None
    failed_at: datetime | None
    problem: str | None
    pending: int
    oldest_pending_at: datetime | None


_COLUMNS = ("endpoint", "state", "succeeded", "p50", "p95", "last failure", "pending", "oldest")


@click.command("endpoints")
@tenant_option
@format_options
def list_endpoints(*, tenant: str | None, output_format: Any) -> None:
    """List endpoints: their state, the attempts of the last day, and what waits for them.

    An endpoint is disabled, paused after repeated failures, failing since its last success, or ok.
    p50 and p95 are estimates of its response times, from classes whose limits are 1.46 apart. The
    last failure is one of the newest 1,000 of all endpoints.

    \b
    Example:
      python -m worker webhooks endpoints
    """
    now = clock.now()
    with open_database(read_transaction) as connection:
        check_tenant_option(connection, tenant)
        config = load_config(connection)
        health, pending = read_health(connection), pending_webhooks(connection)
        figures = read_figures(connection, now - _LAST_DAY)
        failures = last_failures(connection)
    rows = [
        _row(
            key,
            health.get(key, EndpointHealth()),
            figures.get(key, EndpointFigures(0, 0, [])),
            failures.get(key),
            pending.get(key, PendingWebhooks(0, None)),
        )
        for key in _endpoints(config, tenant)
    ]
    if output_format is not None:
        print_rows(_EndpointRow._fields, rows, output_format)
    elif rows:
        print_rows(_COLUMNS, [_cells(row, now) for row in rows], None)
    else:
        click.echo("There are no endpoints.", err=True)


def _endpoints(config: TenantConfig, tenant: str | None) -> Iterator[TurnKey]:
    for each in config.tenants.values():
        if tenant is None or tenant in {each.name, each.id}:
            yield from (TurnKey(each.id, name) for name in each.endpoints)


def _row(
    key: TurnKey,
    health: EndpointHealth,
    figures: EndpointFigures,
    failure: Failure | None,
    pending: PendingWebhooks,
) -> _EndpointRow:
    p50, p95 = (latency_quantile(figures.latencies, share) for share in (0.5, 0.95))
    return _EndpointRow(
        *key,
        *health.state,
        figures.succeeded,
        figures.failed,
        None if p50 is None else round(p50, 1),
        None if p95 is None else round(p95, 1),
        failure and failure.failed_at,
        failure and failure.problem,
        *pending,
    )


def _cells(row: _EndpointRow, now: datetime) -> tuple[str, ...]:
    attempts = row.succeeded + row.failed
    state = row.state if row.since is None else f"{row.state} for {_age(row.since, now)}"
    share = f"{row.succeeded / attempts:.1%} of {attempts:,}" if attempts else ""
    times = ["" if time is None else f"{time:,.0f} ms" for time in (row.p50_ms, row.p95_ms)]
    failure = "" if row.failed_at is None else f"{_age(row.failed_at, now)} ago: {row.problem}"
    oldest = "" if row.oldest_pending_at is None else _age(row.oldest_pending_at, now)
    name = f"{row.tenant}/{row.endpoint}"
    return name, state, share, *times, failure, f"{row.pending:,}", oldest


def _age(moment: datetime, now: datetime) -> str:
    return format_duration(now - moment)


def _key(config: TenantConfig, name: str) -> TurnKey:
    tenant, endpoint = find_endpoint(config, name)
    return TurnKey(tenant.id, endpoint.name)


@click.command()
@endpoint_argument
def disable(*, name: str) -> None:
    """Send nothing more to an endpoint, until `webhooks enable`. Its webhooks wait or expire.

    \b
    Example:
      python -m worker webhooks disable acme/billing
    """
    with open_database(write_transaction) as connection:
        config = load_config(connection)
        key = _key(config, name)
        is_new = disable_endpoint(connection, key, config, clock.now(), operator_account())
        pending = pending_webhooks(connection).get(key, PendingWebhooks(0, None))
    text = "is disabled" if is_new else "was disabled before"
    click.echo(f"{name} {text}; {pending.number:,} webhooks wait for it.")


@click.command()
@endpoint_argument
def enable(*, name: str) -> None:
    """Send webhooks to a disabled endpoint again, or at once what waits for another.

    One of those that wait for a disabled endpoint is sent first; after it succeeded, the others,
    those that expire soonest first. `webhooks resend --missed` sends what has expired meanwhile.
    What waits for the next attempt at an endpoint that was not disabled is due at once, such as
    after its secret was repaired.

    \b
    Example:
      python -m worker webhooks enable acme/billing
    """
    with open_engine() as engine:
        with write_transaction(engine) as connection:
            key = _key(load_config(connection), name)
            is_enabled = enable_endpoint(connection, key, clock.now())
        rest: dict[TurnKey, datetime | None] = {key: None}
        while rest:
            with write_transaction(engine) as connection:
                rest = bring_forward(connection, rest, clock.now())
    text = "is enabled" if is_enabled else "was not disabled; what waits for it is due now"
    click.echo(f"{name} {text}.")
