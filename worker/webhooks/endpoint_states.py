"""The states of endpoints that failed: rows that all processes share."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, delete, select, update

from models import EndpointState
from worker.base.inserts import insert_once
from worker.base.jobs import TurnKey
from worker.ledger.outbox import DELIVERY_LEASE_TIME, DeliveryLease, DeliveryResult
from worker.webhooks.webhook_rules import CLOSED_CIRCUIT, Circuit

_MAX_AGE = timedelta(days=7)

Finished = tuple[DeliveryLease, DeliveryResult]
"""A delivery whose attempt is over, and its result."""


def read_circuits(connection: Connection) -> dict[TurnKey, Circuit]:
    """Return the circuits of all endpoints that failed and have not responded since."""
    row = EndpointState
    query = select(row.tenant, row.endpoint, row.failures, row.open_until)
    return {
        TurnKey(tenant, endpoint): Circuit(failures, open_until)
        for tenant, endpoint, failures, open_until in connection.execute(query)
    }


def begin_probe(connection: Connection, endpoint: TurnKey, now: datetime) -> bool:
    """Take the right to probe an endpoint; return false if another process has it."""
    statement = update(EndpointState).where(
        *_is_endpoint(endpoint), EndpointState.open_until <= now
    )
    return connection.execute(statement.values(open_until=now + DELIVERY_LEASE_TIME)).rowcount == 1


def record_responses(
    connection: Connection, results: Iterable[Finished], now: datetime
) -> list[TurnKey]:
    """Close the circuits of endpoints that responded, and count the failures of the others.

    Returns the endpoints whose circuits were opened. Rows are locked in one order.
    """
    called: defaultdict[TurnKey, list[Finished]] = defaultdict(list)
    for delivery, result in results:
        if result.is_endpoint_up is not None:
            called[delivery.endpoint].append((delivery, result))
    opened = []
    for endpoint, finished in sorted(called.items()):
        if any(result.is_endpoint_up for _, result in finished):
            connection.execute(delete(EndpointState).where(*_is_endpoint(endpoint)))
        elif _count_failures(connection, endpoint, [each for each, _ in finished], now):
            opened.append(endpoint)
    return opened


def _count_failures(
    connection: Connection, endpoint: TurnKey, failed: Sequence[DeliveryLease], now: datetime
) -> bool:
    """Count failures; return true if they opened a circuit that was closed."""
    is_probe = any(delivery.is_probe for delivery in failed)
    key = {"tenant": endpoint.owner, "endpoint": endpoint.name}
    insert_once(connection, EndpointState, key | {"failures": 0, "failed_at": now})
    row = EndpointState
    query = select(row.failures, row.open_until).where(*_is_endpoint(endpoint)).with_for_update()
    before = Circuit(*connection.execute(query).one_or_none() or CLOSED_CIRCUIT)
    after = before.after_failures(len(failed), now, is_probe=is_probe)
    connection.execute(
        update(row).where(*_is_endpoint(endpoint)).values(failed_at=now, **after._asdict())
    )
    return before.open_until is None and after.open_until is not None


def delete_old_circuits(connection: Connection, now: datetime) -> None:
    """Delete the circuits of endpoints that have not been called for a week."""
    connection.execute(delete(EndpointState).where(EndpointState.failed_at <= now - _MAX_AGE))


def _is_endpoint(endpoint: TurnKey) -> tuple[ColumnElement[bool], ...]:
    row = EndpointState
    return row.tenant == endpoint.owner, row.endpoint == endpoint.name
