"""The bytes that a tenant has stored, and the quota of them."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Usage
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, put_message, tenant_config, upload_message
from tests.support.builders.services import InProcessService
from tests.support.uses.reports import deleted, stored
from worker.core.tenants.config import Quota
from worker.core.uses.reports import UseReport
from worker.db.engine import read_transaction, write_transaction
from worker.db.uses.stored_bytes import add_stored_bytes
from worker.usecases.uses.record import record_uses

KEY = "acme/a.png"


@pytest.fixture(autouse=True)
def tenant(apply_config: ApplyConfig) -> None:
    apply_config(tenant_config(Quota("stored_bytes", "live", 1_000)))


def issued_id(service: InProcessService) -> str:
    grant_id: str = service.issue(put_message({KEY: 100}))["items"][0]["id"]
    return grant_id


def stored_bytes(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        query = select(Usage.stored_bytes).where(Usage.window == "live")
        return connection.execute(query).scalar_one()


def record(service: InProcessService, *reports: UseReport) -> None:
    record_uses(reports, service.context)


def outcome_of(service: InProcessService, size: int) -> dict[str, Any]:
    return service.issue(put_message({"acme/next.png": size}))


def test_a_stored_object_counts_with_its_size_once(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    report = stored(issued_id(service), KEY, clock(), size=100)
    record(service, report)
    record(service, report)
    assert stored_bytes(engine) == 100


def test_an_object_that_replaces_another_counts_alone(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    record(service, stored(issued_id(service), KEY, clock(), size=100))
    clock.forward(seconds=30)
    record(service, stored(issued_id(service), KEY, clock(), size=40, etag="second"))
    assert stored_bytes(engine) == 40


def test_a_deleted_object_counts_no_more(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    record(service, stored(issued_id(service), KEY, clock(), size=100))
    assert stored_bytes(engine) == 100
    clock.forward(seconds=30)
    record(service, deleted(KEY, clock()))
    assert stored_bytes(engine) == 0


def test_content_that_is_stored_again_after_its_deletion_counts_again(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    first = stored(issued_id(service), KEY, clock(), size=100)
    again = first._replace(occurred_at=clock() + timedelta(seconds=20))
    record(service, first)
    record(service, deleted(KEY, clock() + timedelta(seconds=10)))
    for _ in range(2):
        record(service, again)
        record(service, first)
        assert stored_bytes(engine) == 100


def test_content_that_is_stored_again_after_another_one_is_the_newest(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    first = stored(issued_id(service), KEY, clock(), size=100)
    other = stored(issued_id(service), KEY, clock(), size=40, etag="second")
    record(service, first)
    record(service, other._replace(occurred_at=clock() + timedelta(seconds=10)))
    record(service, first._replace(occurred_at=clock() + timedelta(seconds=20)))
    assert stored_bytes(engine) == 100


def test_the_bytes_stay_within_what_their_column_keeps(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    record(service, stored(issued_id(service), KEY, clock(), size=100))
    for change, expected in ((2**62, 2**62), (2**70, 2**62), (-(2**70), 1), (-5, 0)):
        with write_transaction(engine) as connection:
            add_stored_bytes(connection, {"acme": change})
        assert stored_bytes(engine) == expected


def test_a_request_is_refused_if_its_bytes_and_the_stored_ones_exceed_the_quota(
    service: InProcessService, clock: Clock
) -> None:
    record(service, stored(issued_id(service), KEY, clock(), size=600))
    assert outcome_of(service, 400)["status"] == "issued"
    refusal = outcome_of(service, 401)["refusal"]
    assert (refusal["code"], refusal["quota"]["metric"]) == ("quota_exceeded", "stored_bytes")
    assert (refusal["quota"]["used"], refusal["quota"]["asked"]) == (600, 401)


def test_issuing_changes_nothing_of_what_is_stored(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    record(service, stored(issued_id(service), KEY, clock(), size=100))
    service.issue(upload_message(max_size=800))
    assert stored_bytes(engine) == 100
