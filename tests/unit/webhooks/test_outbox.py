"""Due deliveries and manifests are found without reading all that are pending."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, insert

from models import Base, Delivery, Manifest
from worker.webhooks.outbox import due_endpoints, pending_values, tenants_with_due_manifests

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
ENDPOINTS = [("acme", "billing"), ("acme", "mail"), ("globex", "billing"), ("initech", "billing")]
WAITING = "globex"
OUTCOME = {"chunk_number": 0, "event": "grants.decided", "page": 1, "pages": 1}
MANIFEST = {"object_key": "key", "issued": 0, "refused": 0}


def _search(table: Any, find: Callable[..., Any], rows: int) -> tuple[list[Any], int]:
    """Return what is found among many pending rows of each endpoint, and the steps of SQLite."""
    engine = create_engine("sqlite://")
    Base.metadata.tables[table.__tablename__].create(engine)
    values = [
        pending_values(NOW + timedelta(days=tenant == WAITING))
        | {"batch_number": rows * place + number, "tenant": tenant}
        | (MANIFEST if table is Manifest else OUTCOME | {"endpoint": name})
        for place, (tenant, name) in enumerate(ENDPOINTS)
        for number in range(rows)
    ]
    steps: list[None] = []
    with engine.connect() as connection:
        connection.execute(insert(table), values)
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: steps.append(None), 1)
        found = find(connection, NOW)
        driver.set_progress_handler(None, 1)
    engine.dispose()
    return found, len(steps)


@pytest.mark.parametrize(
    ("table", "find", "due"),
    [
        (Delivery, due_endpoints, [*ENDPOINTS[:2], ENDPOINTS[3]]),
        (Manifest, tenants_with_due_manifests, ["acme", "initech"]),
    ],
)
def test_many_pending_rows_do_not_slow_the_search_for_due_ones(
    table: Any, find: Callable[..., Any], due: list[Any]
) -> None:
    found, steps = _search(table, find, 5)
    found_among_many, steps_among_many = _search(table, find, 500)
    assert found == found_among_many == due
    assert steps_among_many < 2 * steps
