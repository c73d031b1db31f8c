"""The checks and metrics of webhooks: their endpoints and secrets, manifests, and what waits."""

import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from prometheus_client.core import Metric
from sqlalchemy import Connection, exists, func, select

from models import Delivery, EndpointState, Manifest
from valetkey.units import format_duration, format_utc
from worker import clock
from worker.errors import Transient
from worker.ledger.tenant_rows import load_config
from worker.rules.tenant_config import TenantConfig
from worker.shared.monitoring import (
    OVERDUE_AFTER,
    Check,
    Family,
    WaitingWork,
    Window,
    age,
    check_waiting,
)
from worker.webhooks.batch_completion import PENDING
from worker.webhooks.endpoint_states import read_figures, read_health
from worker.webhooks.outbox import count_pending_webhooks
from worker.webhooks.turns import TurnKey
from worker.webhooks.webhook_rules import EndpointHealth
from worker.webhooks.webhook_secrets import longest_signing, read_secrets

_IS_PENDING = Delivery.state == PENDING

_LAST_DAY = timedelta(days=1)


def oldest_webhook_time(connection: Connection) -> datetime | None:
    """Return the time at which the oldest pending webhook was queued; None if none is pending."""
    return connection.scalar(select(func.min(Delivery.created_at)).where(_IS_PENDING))


def earliest_due_webhook(connection: Connection) -> datetime | None:
    """Return the earliest time of the next attempts of pending webhooks; None if none is pending.

    A time in the past means that an attempt is due. Disabled endpoints do not count.
    """
    is_disabled = exists().where(
        EndpointState.tenant == Delivery.tenant,
        EndpointState.endpoint == Delivery.endpoint,
        EndpointState.disabled_at.is_not(None),
    )
    earliest = select(func.min(Delivery.next_attempt_at)).where(_IS_PENDING, ~is_disabled)
    return connection.scalar(earliest)


class FailedManifests(NamedTuple):
    """The number of failed manifests, and the problem of the newest one."""

    number: int
    problem: str | None


def failed_manifests(connection: Connection, since: datetime) -> FailedManifests:
    """Return the manifests that have failed since a time."""
    is_failed = Manifest.state == "failed", Manifest.finished_at >= since
    count = connection.scalar(select(func.count()).select_from(Manifest).where(*is_failed)) or 0
    newest = select(Manifest.problem).where(*is_failed).order_by(Manifest.finished_at.desc())
    return FailedManifests(count, connection.scalar(newest.limit(1)))


_OLDEST_WEBHOOK = "the oldest pending one was queued {age} ago"
WEBHOOKS = WaitingWork(
    "webhooks",
    oldest_webhook_time,
    OVERDUE_AFTER,
    "none is pending",
    _OLDEST_WEBHOOK,
    "python -m worker webhooks list --state pending",
    waiting=_OLDEST_WEBHOOK,
)


def database_checks(connection: Connection, config: TenantConfig, now: datetime) -> Iterator[Check]:
    """Check endpoints, pending webhooks and manifests."""
    yield from check_endpoints(read_health(connection), config, now)
    yield check_waiting(WEBHOOKS, WEBHOOKS.since(connection), now)
    yield check_manifests(failed_manifests(connection, now - _LAST_DAY))


def check_endpoints(
    states: Mapping[TurnKey, EndpointHealth], config: TenantConfig, now: datetime
) -> Iterator[Check]:
    """Warn of endpoints that are disabled, or did not take a webhook for some minutes."""
    for (tenant_id, name), health in sorted(states.items()):
        tenant = config.tenant_by_id(tenant_id)
        if tenant is None or name not in tenant.endpoints:
            continue
        state, since = health.state
        endpoint, problem = f"{tenant_id}/{name}", f": {health.problem}" if health.problem else ""
        hint = f"python -m worker webhooks test {endpoint}; once it succeeds: python -m worker"
        hint += f" webhooks enable {endpoint}"
        if state == "disabled" and since is not None:
            by = f" by {health.disabled_by}" if health.disabled_by else ""
            text = f"{endpoint}: disabled {format_duration(now - since)} ago{by}{problem}"
            yield Check("endpoints", "warn", text, hint)
        elif since is not None and (state == "paused" or now - since > OVERDUE_AFTER):
            text = f"{endpoint}: {state}, without a success for {format_duration(now - since)}"
            yield Check("endpoints", "warn", text + problem, hint)


def check_manifests(failed: FailedManifests) -> Check:
    """Warn of manifests that have failed in the last day, with the newest problem."""
    if not failed.number:
        return Check("manifests", "ok", "none has failed in the last day")
    text = f"{failed.number:,} failed in the last day; the newest: {failed.problem}"
    return Check("manifests", "warn", text, "python -m worker webhooks manifests --state failed")


ENDS_SOON = timedelta(days=3)
_UNREADABLE_HINT = "set the secret where the upkeep worker runs, and run doctor there"
_ROTATE_HINT = "python -m worker webhooks secret rotate FILE: docs/webhooks.md, Secrets"


def service_checks(config: TenantConfig, *, offline: bool) -> Iterator[Check]:  # noqa: ARG001 - contacts nothing
    """Check the secrets of endpoints."""
    yield from check_secrets(config, os.environ, clock.now())


def check_secrets(
    config: TenantConfig, environ: Mapping[str, str], now: datetime
) -> Iterator[Check]:
    """Warn of endpoints whose secrets cannot be read, or all have ended or will soon."""
    for tenant in config.tenants.values():
        for endpoint in tenant.endpoints.values():
            name = f"{tenant.name}/{endpoint.name}"
            try:
                end = longest_signing(read_secrets(endpoint.secret, environ)).until
            except Transient as error:
                yield Check("endpoints", "warn", f"{name}: {error}", _UNREADABLE_HINT)
                continue
            if end is not None and end - now <= ENDS_SOON:
                verb = "ended" if end <= now else "ends"
                text = f"{name}: its last webhook secret {verb} at {format_utc(end)}"
                yield Check("endpoints", "warn", text, _ROTATE_HINT)
            else:
                yield Check("endpoints", "ok", f"{name}: its webhook secret is available")


_PENDING = Family("webhooks_pending", "Webhooks that are not sent yet.", ("tenant", "endpoint"))
_DUE = Family(
    "webhook_oldest_due_age_seconds",
    "Time since the longest-waiting webhook should have been attempted, 0 if none is due.",
)
_ATTEMPTS = Family(
    "webhook_attempts",
    "Attempts to deliver a webhook that called the endpoint, since the hour in which the window"
    " begins, by result: succeeded or failed.",
    ("tenant", "endpoint", "result", "window"),
)
_DISABLED = Family(
    "webhook_endpoint_disabled",
    "1 if nothing is sent to an endpoint, because it failed for days, is gone, or an operator"
    " disabled it.",
    ("tenant", "endpoint"),
)


def read_backlog(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    """Yield how many webhooks are pending, and for how long one is due."""
    yield _PENDING.samples(count_pending_webhooks(connection))
    yield _DUE.single(age(earliest_due_webhook(connection), now))


def read_endpoints(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    """Yield the attempts of each endpoint, and whether it is disabled."""
    figures = read_figures(connection, now - window.length)
    yield _ATTEMPTS.samples(
        {
            (*endpoint, result, window.label): getattr(counts, result)
            for endpoint, counts in figures.items()
            for result in ("succeeded", "failed")
        }
    )
    states = read_health(connection)
    config = load_config(connection)
    yield _DISABLED.samples(
        {
            key: key in states and states[key].disabled_at is not None
            for tenant in config.tenants.values()
            for key in (TurnKey(tenant.id, name) for name in tenant.endpoints)
        }
    )
