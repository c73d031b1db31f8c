from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Cancellation
from tests.integration.conftest import ApplyConfig
from tests.support.builders import services
from tests.support.builders.messages import Clock, grant_message, split_chunks, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.quota_model.tables import charged, reserved
from valetkey.wire.refusals import Window
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Quota, TenantConfig
from worker.db.engine import create_database_engine, read_transaction

WINDOWS: tuple[Window, ...] = ("day", "live")


@pytest.fixture(autouse=True)
def tenant(apply_config: ApplyConfig) -> None:
    apply_config(tenant_config())


@pytest.fixture
def other_process(engine: Engine, clock: Clock) -> Iterator[InProcessService]:
    """The service of another process, with its own connections."""
    other_engine = create_database_engine(engine.url.render_as_string(hide_password=False))
    yield services.build_service(other_engine, S3Clients(), clock)
    other_engine.dispose()


def chunks(items: int, size: int) -> list[dict[str, Any]]:
    """Return the chunks of a new batch."""
    return split_chunks(grant_message([f"acme/{n}" for n in range(items)]), size)


def cancel_message(batch_id: str) -> dict[str, Any]:
    header = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "ann"}
    return header | {"reason": "a mistake", "batch": batch_id}


def refusal_code(outcome: dict[str, Any]) -> str | None:
    refusal: dict[str, str] = outcome.get("refusal", {})
    return refusal.get("code")


def test_a_batch_that_is_cancelled_before_it_arrives_is_refused(
    engine: Engine, service: InProcessService
) -> None:
    first, second = chunks(4, 2)
    cancelled = service.issue(cancel_message(first["batch"]))
    assert (cancelled["issued"], cancelled["released"]) == (0, 0)
    assert [refusal_code(service.issue(chunk)) for chunk in (first, second)] == ["batch_closed"] * 2
    assert (charged(engine), reserved(engine)) == (0, [])


def test_missing_chunks_are_released_in_every_window_in_which_they_were_charged(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    first, second, third = chunks(6, 2)
    service.issue(first)
    clock.forward(hours=2)
    service.issue(second)
    cancelled = service.issue(cancel_message(first["batch"]))
    assert cancelled == {
        "status": "cancelled",
        "batch": first["batch"],
        "issued": 4,
        "released": 2,
    }
    assert [charged(engine, window) for window in ("minute", "hour", "month", "live")] == [4] * 4
    assert refusal_code(service.issue(third)) == "batch_closed"
    assert charged(engine, "live") == 4


def test_granted_chunks_are_returned_again_after_the_batch_was_cancelled(
    service: InProcessService,
) -> None:
    first, _ = chunks(4, 2)
    granted = service.issue(first)
    service.issue(cancel_message(first["batch"]))
    assert service.issue(first)["items"] == granted["items"]


def test_cancelling_a_complete_batch_releases_nothing(
    engine: Engine, service: InProcessService
) -> None:
    batch = chunks(4, 2)
    for chunk in batch:
        service.issue(chunk)
    cancelled = service.issue(cancel_message(batch[0]["batch"]))
    assert (cancelled["issued"], cancelled["released"]) == (4, 0)
    assert [charged(engine, window) for window in WINDOWS] == [4, 4]


def test_cancelling_again_releases_nothing_more(engine: Engine, service: InProcessService) -> None:
    first, _ = chunks(4, 2)
    service.issue(first)
    responses = [service.issue(cancel_message(first["batch"])) for _ in range(3)]
    assert [response["released"] for response in responses] == [2, 0, 0]
    assert {response["issued"] for response in responses} == {2}
    assert [charged(engine, window) for window in WINDOWS] == [2, 2]
    with read_transaction(engine) as connection:
        (row,) = connection.execute(select(Cancellation))
    assert (row.batch_id, row.requested_by, row.reason) == (first["batch"], "ann", "a mistake")


def test_a_refused_batch_has_nothing_to_cancel(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config(Quota("grants", "hour", 1)))
    first, _ = chunks(4, 2)
    assert refusal_code(service.issue(first)) == "quota_exceeded"
    cancelled = service.issue(cancel_message(first["batch"]))
    assert (cancelled["issued"], cancelled["released"]) == (0, 0)
    assert (charged(engine), reserved(engine)) == (0, [])


def test_a_batch_of_another_tenant_with_the_same_id_stays_open(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    acme = tenant_config().tenants["acme"]
    tenants = {"acme": acme, "globex": replace(acme, name="globex")}
    apply_config(TenantConfig(tenant_config().buckets, tenants))
    first, second = chunks(4, 2)
    service.issue(first)
    service.issue(cancel_message(first["batch"]) | {"tenant": "globex"})
    assert refusal_code(service.issue(second)) is None
    assert refusal_code(service.issue(first | {"tenant": "globex"})) == "batch_closed"
    assert charged(engine) == 4


@pytest.mark.parametrize("arrived", [0, 1])
def test_a_concurrent_chunk_and_cancellation_are_processed_one_after_the_other(
    engine: Engine, service: InProcessService, other_process: InProcessService, arrived: int
) -> None:
    granted = 0
    for _ in range(10):
        batch = chunks(4, 2)
        for chunk in batch[:arrived]:
            service.issue(chunk)
        with ThreadPoolExecutor(2) as pool:
            outcome = pool.submit(service.issue, batch[arrived])
            cancel = cancel_message(batch[0]["batch"])
            cancelled = pool.submit(other_process.issue, cancel).result()
        chunk_was_first = refusal_code(outcome.result()) is None
        assert cancelled["issued"] == 2 * (arrived + chunk_was_first)
        assert cancelled["released"] == (2 if arrived != chunk_was_first else 0)
        granted += cancelled["issued"]
    assert [charged(engine, window) for window in WINDOWS] == [granted, granted]
