"""The circuits of endpoints, as rows that all processes share. See worker.core.webhooks.circuit."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, delete, select, update

from models import EndpointCircuit
from worker.core.webhooks.circuit import CLOSED, Circuit
from worker.db.inserts import insert_once
from worker.db.outbox import LEASE_TIME, DeliveryLease, DeliveryResult
from worker.jobs.turns import TurnKey

_MAX_AGE = timedelta(days=7)


def read_circuits(connection: Connection) -> dict[TurnKey, Circuit]:
    """Return the circuits of all endpoints that failed and have not responded since."""
    row = EndpointCircuit
    query = select(row.tenant, row.endpoint, row.failures, row.open_until)
    return {
        TurnKey(tenant, endpoint): Circuit(failures, open_until)
        for tenant, endpoint, failures, open_until in connection.execute(query)
    }


def begin_probe(connection: Connection, endpoint: TurnKey, now: datetime) -> bool:
    """Take the right to probe an endpoint; return false if another process has it."""
    statement = update(EndpointCircuit).where(
        *_is_endpoint(endpoint), EndpointCircuit.open_until <= now
    )
    return connection.execute(statement.values(open_until=now + LEASE_TIME)).rowcount == 1


def record_responses(
    connection: Connection, results: Iterable[tuple[DeliveryLease, DeliveryResult]], now: datetime
) -> list[TurnKey]:
    """Close the circuits of endpoints that responded, and count the failures of the others.

    Returns the endpoints whose circuits were opened. Rows are locked in one order.
    """
    responses: dict[TurnKey, list[tuple[bool, bool]]] = {}
    for delivery, result in results:
        if result.is_endpoint_up is not None:
            response = (result.is_endpoint_up, delivery.is_probe)
            responses.setdefault(delivery.endpoint, []).append(response)
    opened = []
    for endpoint in sorted(responses):
        if any(is_up for is_up, _ in responses[endpoint]):
            connection.execute(delete(EndpointCircuit).where(*_is_endpoint(endpoint)))
        else:
            is_probe = any(is_probe for _, is_probe in responses[endpoint])
            if _count_failures(
                connection, endpoint, len(responses[endpoint]), now, is_probe=is_probe
            ):
                opened.append(endpoint)
    return opened


def _count_failures(
    connection: Connection, endpoint: TurnKey, count: int, now: datetime, *, is_probe: bool
) -> bool:
    """Count failures; return true if they opened a circuit that was closed."""
    key = {"tenant": endpoint.owner, "endpoint": endpoint.name}
    insert_once(connection, EndpointCircuit, key | {"failures": 0, "failed_at": now})
    row = EndpointCircuit
    query = select(row.failures, row.open_until).where(*_is_endpoint(endpoint)).with_for_update()
    before = Circuit(*connection.execute(query).one_or_none() or CLOSED)
    after = before.after_failures(count, now, is_probe=is_probe)
    connection.execute(
        update(row).where(*_is_endpoint(endpoint)).values(failed_at=now, **after._asdict())
    )
    return before.open_until is None and after.open_until is not None


def delete_old_circuits(connection: Connection, now: datetime) -> None:
    """Delete the circuits of endpoints that have not been called for a week."""
    connection.execute(delete(EndpointCircuit).where(EndpointCircuit.failed_at <= now - _MAX_AGE))


def _is_endpoint(endpoint: TurnKey) -> tuple[ColumnElement[bool], ...]:
    row = EndpointCircuit
    return row.tenant == endpoint.owner, row.endpoint == endpoint.name
