"""The states of endpoints: rows that all processes share, and the figures of their attempts.

A transaction locks rows in one order: deliveries, completions, states, hours; in each table by
endpoint.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, func, or_, select, update

from models import Delivery, DeliveryAttempt, EndpointHour, EndpointState
from valetkey.wire.events import DisabledEndpoint, DisabledReason
from worker.base.inserts import insert_once, insert_statement
from worker.rules.tenant_config import TenantConfig
from worker.webhooks.outbox import (
    DELIVERY_LEASE_TIME,
    DeliveryLease,
    DeliveryResult,
    TenantEvent,
    insert_event,
)
from worker.webhooks.turns import TurnKey
from worker.webhooks.webhook_rules import (
    CIRCUIT_THRESHOLD,
    GONE,
    LATENCY_BOUNDS,
    EndpointHealth,
    latency_class,
)

_MAX_FAILURES = 1_000
_MAX_AGE = timedelta(days=7)
_MAX_AGE_OF_HOURS = timedelta(days=8)

FinishedDelivery = tuple[DeliveryLease, DeliveryResult]
"""A delivery whose attempt is over, and its result."""

_HEALTH = [getattr(EndpointState, name) for name in EndpointHealth._fields]


class EndpointChanges(NamedTuple):
    """The endpoints that results paused or disabled, with the reason, and those that recovered.

    recovered has the beginning of their outage.
    """

    paused: list[TurnKey]
    disabled: dict[TurnKey, DisabledReason]
    recovered: dict[TurnKey, datetime | None]


def read_health(connection: Connection) -> dict[TurnKey, EndpointHealth]:
    """Return the states of all endpoints that failed or are disabled."""
    query = select(EndpointState.tenant, EndpointState.endpoint, *_HEALTH)
    return {
        TurnKey(tenant, endpoint): EndpointHealth(*values)
        for tenant, endpoint, *values in connection.execute(query)
    }


def begin_probe(connection: Connection, endpoint: TurnKey, now: datetime) -> bool:
    """Take the right to probe an endpoint; return false if another process has it."""
    statement = update(EndpointState).where(
        *_is_endpoint(endpoint), EndpointState.open_until <= now
    )
    return connection.execute(statement.values(open_until=now + DELIVERY_LEASE_TIME)).rowcount == 1


def _end_probe(connection: Connection, endpoint: TurnKey, now: datetime) -> None:
    """Let the next delivery probe an endpoint: the probing one was not sent."""
    is_probed = *_is_endpoint(endpoint), EndpointState.open_until.is_not(None)
    connection.execute(update(EndpointState).where(*is_probed).values(open_until=now))


def record_results(
    connection: Connection, results: Iterable[FinishedDelivery], config: TenantConfig, now: datetime
) -> EndpointChanges:
    """Record the results of attempts that called their endpoint. config names whom to inform."""
    called: defaultdict[TurnKey, list[FinishedDelivery]] = defaultdict(list)
    unused: set[TurnKey] = set()
    for delivery, result in results:
        if result.is_endpoint_up is not None:
            called[delivery.endpoint].append((delivery, result))
        elif delivery.is_probe:
            unused.add(delivery.endpoint)
    changes = EndpointChanges([], {}, {})
    if called or unused:
        states = read_health(connection)  # few have one
        for endpoint in sorted({*called, *unused}):
            if endpoint not in called:
                _end_probe(connection, endpoint, now)
                continue
            finished, state = called[endpoint], _LockedState(connection, endpoint, now)
            failed = [each for each in finished if each[1].problem is not None]
            is_gone = any(result.status == GONE for _, result in failed)
            if is_gone or len(failed) == len(finished):
                state.record_failures(failed, config, changes)
            elif endpoint in states:
                state.record_success(changes)
    if called:
        _count_attempts(connection, called, now)
    return changes


def disable_endpoint(
    connection: Connection, endpoint: TurnKey, config: TenantConfig, now: datetime, account: str
) -> bool:
    """Disable an endpoint for an operator; return false if it was disabled before."""
    state = _LockedState(connection, endpoint, now)
    health = state.insert()
    if health.disabled_at is None:
        state.disable(health._replace(disabled_by=account), "operator", config)
    return health.disabled_at is None


def enable_endpoint(connection: Connection, endpoint: TurnKey, now: datetime) -> bool:
    """End the disabled state or the pause of an endpoint; return false if it was not disabled.

    One delivery then probes it, as after a pause: if it fails, the others lose no attempt. Call
    bring_forward for the endpoint next.
    """
    state = _LockedState(connection, endpoint, now)
    health = state.read()
    if health.disabled_at is not None or health.open_until is not None:
        probed = EndpointHealth(CIRCUIT_THRESHOLD - 1, now, None, health.failed_at, health.problem)
        state.store(probed)
    return health.disabled_at is not None


class _LockedState:
    """The row of an endpoint in one transaction, which locks it until the end."""

    def __init__(self, connection: Connection, endpoint: TurnKey, now: datetime) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self._now = now

    def read(self) -> EndpointHealth:
        query = select(*_HEALTH).where(*_is_endpoint(self._endpoint)).with_for_update()
        row = self._connection.execute(query).one_or_none()
        return EndpointHealth() if row is None else EndpointHealth(*row)

    def insert(self) -> EndpointHealth:
        """Read the row, which is inserted if it is not there."""
        key = {"tenant": self._endpoint.owner, "endpoint": self._endpoint.name}
        insert_once(self._connection, EndpointState, key | {"failures": 0})
        return self.read()

    def store(self, health: EndpointHealth) -> None:
        statement = update(EndpointState).where(*_is_endpoint(self._endpoint))
        self._connection.execute(statement.values(health._asdict()))

    def record_success(self, changes: EndpointChanges) -> None:
        """Delete the row, unless the endpoint is disabled."""
        health = self.read()
        if health.disabled_at is None:
            statement = delete(EndpointState).where(*_is_endpoint(self._endpoint))
            self._connection.execute(statement)
            if health.was_down(self._now):
                changes.recovered[self._endpoint] = health.failing_since

    def record_failures(
        self, failed: Sequence[FinishedDelivery], config: TenantConfig, changes: EndpointChanges
    ) -> None:
        """Count failures, which may pause or disable it. A disabled endpoint stays as it is."""
        before = self.insert()
        if before.disabled_at is not None:
            return
        results = [result for _, result in failed]
        after = before.after_failures(
            sum(not result.is_endpoint_up for result in results),
            min(result.attempted_at or self._now for result in results),
            self._now,
            is_up=any(result.is_endpoint_up for result in results),
            is_probe=any(delivery.is_probe for delivery, _ in failed),
        )._replace(problem=results[-1].problem)
        is_gone = any(result.status == GONE for result in results)
        if is_gone or after.has_failed_for_days:
            reason: DisabledReason = "gone" if is_gone else "failing"
            self.disable(after, reason, config)
            changes.disabled[self._endpoint] = reason
            return
        self.store(after)
        if before.open_until is None and after.open_until is not None:
            changes.paused.append(self._endpoint)

    def disable(self, health: EndpointHealth, reason: DisabledReason, config: TenantConfig) -> None:
        """Let nothing be sent to the endpoint, and inform the tenant's other endpoints."""
        self.store(health._replace(failures=0, open_until=None, disabled_at=self._now))
        tenant = config.tenant_by_id(self._endpoint.owner)
        if tenant is not None:
            content = DisabledEndpoint(
                tenant=tenant.name,
                endpoint=self._endpoint.name,
                reason=reason,
                failing_since=health.failing_since,
                problem=health.problem,
            )
            group_id = f"{self._endpoint.name}-{int(self._now.timestamp())}"
            event = TenantEvent("endpoint.disabled", group_id, content)
            excluded = self._endpoint.name
            insert_event(self._connection, tenant, event, self._now, excluded=excluded)


def _count_attempts(
    connection: Connection, called: Mapping[TurnKey, Sequence[FinishedDelivery]], now: datetime
) -> None:
    """Add attempts to the figures of this hour, in one statement."""
    counts = Counter(
        (endpoint, result.problem is None, latency_class(result.duration_ms, result.status))
        for endpoint, finished in called.items()
        for _, result in finished
    )
    hour = now.replace(minute=0, second=0, microsecond=0)
    columns = EndpointHour.__table__.columns.keys()
    values = (  # in the order in which their rows are locked
        (*endpoint, hour, is_success, latency, number)
        for (endpoint, is_success, latency), number in sorted(counts.items())
    )
    statement = insert_statement(EndpointHour, connection.dialect.name)
    added = {"attempts": EndpointHour.attempts + statement.excluded.attempts}
    upsert = statement.on_conflict_do_update(index_elements=columns[:-1], set_=added)
    connection.execute(upsert, [dict(zip(columns, row, strict=True)) for row in values])


class EndpointFigures(NamedTuple):
    """The attempts that called an endpoint since a time, and their response times by class."""

    succeeded: int
    failed: int
    latencies: list[int]


def read_figures(connection: Connection, since: datetime) -> dict[TurnKey, EndpointFigures]:
    """Return the figures of endpoints since the hour of a time."""
    hour = since.replace(minute=0, second=0, microsecond=0)
    row = EndpointHour
    columns = row.tenant, row.endpoint, row.is_success, row.latency_class
    query = select(*columns, func.sum(row.attempts)).where(row.hour >= hour).group_by(*columns)
    figures: dict[TurnKey, EndpointFigures] = {}
    for tenant, name, is_success, latency, attempts in connection.execute(query):
        key = TurnKey(tenant, name)
        each = figures.get(key, EndpointFigures(0, 0, [0] * (len(LATENCY_BOUNDS) + 1)))
        if latency:
            each.latencies[latency - 1] += int(attempts)
        result = "succeeded" if is_success else "failed"
        figures[key] = each._replace(**{result: getattr(each, result) + int(attempts)})
    return figures


class Failure(NamedTuple):
    """The newest failed attempt of an endpoint."""

    failed_at: datetime
    problem: str


def last_failures(connection: Connection) -> dict[TurnKey, Failure]:
    """Return the last failure of each endpoint among the newest 1,000 of all."""
    query = (
        select(Delivery.tenant, Delivery.endpoint)
        .add_columns(DeliveryAttempt.attempted_at, DeliveryAttempt.problem)
        .join(DeliveryAttempt, DeliveryAttempt.delivery_number == Delivery.delivery_number)
        .order_by(DeliveryAttempt.attempt_number.desc())
        .limit(_MAX_FAILURES)
    )
    rows = reversed(connection.execute(query).all())
    return {
        TurnKey(tenant, name): Failure(failed_at, problem)
        for tenant, name, failed_at, problem in rows
    }


def delete_old_states(connection: Connection, config: TenantConfig, now: datetime) -> None:
    """Delete the states of endpoints without a failure for a week, and figures after 8 days.

    Also those of endpoints that were removed: what waits for one fails, instead of being kept by a
    state that no command could end.
    """
    for endpoint in read_health(connection):
        tenant = config.tenant_by_id(endpoint.owner)
        if tenant is None or endpoint.name not in tenant.endpoints:
            connection.execute(delete(EndpointState).where(*_is_endpoint(endpoint)))
    times = EndpointState.failed_at, EndpointState.open_until
    is_old = [or_(time <= now - _MAX_AGE, time.is_(None)) for time in times]
    is_enabled = EndpointState.disabled_at.is_(None)
    connection.execute(delete(EndpointState).where(*is_old, is_enabled))
    connection.execute(delete(EndpointHour).where(EndpointHour.hour <= now - _MAX_AGE_OF_HOURS))


def _is_endpoint(endpoint: TurnKey) -> tuple[ColumnElement[bool], ...]:
    row = EndpointState
    return row.tenant == endpoint.owner, row.endpoint == endpoint.name
