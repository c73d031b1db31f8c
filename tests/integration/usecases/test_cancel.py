from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Cancellation
from tests.integration.conftest import Declare
from tests.support.builders import services
from tests.support.builders.messages import Clock, grant_message, split_chunks, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.quota_model.tables import charged, reserved
from valetkey.wire.refusals import Window
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Quota, TenantConfig
from worker.db.engine import create_database_engine, read_transaction

BOTH: tuple[Window, ...] = ("day", "live")


@pytest.fixture(autouse=True)
def tenant(declare: Declare) -> None:
    declare(tenant_config())


@pytest.fixture
def other(engine: Engine, clock: Clock) -> Iterator[InProcessService]:
    """Another worker, with connections of its own."""
    its = create_database_engine(engine.url.render_as_string(hide_password=False))
    yield services.build_service(its, S3Clients(), clock)
    its.dispose()


def batch(items: int, size: int) -> list[dict[str, Any]]:
    return split_chunks(grant_message([f"acme/{n}" for n in range(items)]), size)


def cancelling(name: str) -> dict[str, Any]:
    ask = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "ann", "reason": "a mistake"}
    return ask | {"batch": name}


def code(said: dict[str, Any]) -> str | None:
    refusal: dict[str, str] = said.get("refusal", {})
    return refusal.get("code")


def test_a_batch_that_is_cancelled_before_it_arrives_is_refused(
    engine: Engine, issuer: InProcessService
) -> None:
    first, second = batch(4, 2)
    cancelled = issuer.issue(cancelling(first["batch"]))
    assert (cancelled["issued"], cancelled["released"]) == (0, 0)
    assert [code(issuer.issue(chunk)) for chunk in (first, second)] == ["batch_closed"] * 2
    assert (charged(engine), reserved(engine)) == (0, [])


def test_what_had_not_arrived_is_released_in_every_window_since_the_batch_began(
    engine: Engine, issuer: InProcessService, clock: Clock
) -> None:
    first, second, third = batch(6, 2)
    issuer.issue(first)
    clock.forward(hours=2)
    issuer.issue(second)
    cancelled = issuer.issue(cancelling(first["batch"]))
    assert (cancelled["status"], cancelled["issued"], cancelled["released"]) == ("cancelled", 4, 2)
    assert [charged(engine, window) for window in ("minute", "hour", "month", "live")] == [4] * 4
    assert code(issuer.issue(third)) == "batch_closed"
    assert charged(engine, "live") == 4


def test_what_was_granted_is_answered_again_after_it_was_cancelled(
    issuer: InProcessService,
) -> None:
    first, _ = batch(4, 2)
    granted = issuer.issue(first)
    issuer.issue(cancelling(first["batch"]))
    assert issuer.issue(first)["items"] == granted["items"]


def test_a_batch_that_is_through_is_cancelled_in_vain(
    engine: Engine, issuer: InProcessService
) -> None:
    for chunk in (one := batch(4, 2)):
        issuer.issue(chunk)
    cancelled = issuer.issue(cancelling(one[0]["batch"]))
    assert (cancelled["issued"], cancelled["released"]) == (4, 0)
    assert [charged(engine, window) for window in BOTH] == [4, 4]


def test_to_cancel_once_more_releases_nothing_more(
    engine: Engine, issuer: InProcessService
) -> None:
    first, _ = batch(4, 2)
    issuer.issue(first)
    said = [issuer.issue(cancelling(first["batch"])) for _ in range(3)]
    assert [one["released"] for one in said] == [2, 0, 0]
    assert {one["issued"] for one in said} == {2}
    assert [charged(engine, window) for window in BOTH] == [2, 2]
    with read_transaction(engine) as connection:
        (row,) = connection.execute(select(Cancellation))
    assert (row.batch, row.requested_by, row.reason) == (first["batch"], "ann", "a mistake")


def test_a_refused_batch_has_nothing_to_cancel(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    declare(tenant_config(Quota("grants", "hour", 1)))
    first, _ = batch(4, 2)
    assert code(issuer.issue(first)) == "quota_exceeded"
    cancelled = issuer.issue(cancelling(first["batch"]))
    assert (cancelled["issued"], cancelled["released"]) == (0, 0)
    assert (charged(engine), reserved(engine)) == (0, [])


def test_a_batch_of_another_tenant_with_the_same_id_goes_on(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    both = {
        name: replace(tenant_config().tenants["acme"], name=name) for name in ("acme", "globex")
    }
    declare(TenantConfig(tenant_config().buckets, both))
    first, second = batch(4, 2)
    issuer.issue(first)
    issuer.issue(cancelling(first["batch"]) | {"tenant": "globex"})
    assert code(issuer.issue(second)) is None
    assert code(issuer.issue(first | {"tenant": "globex"})) == "batch_closed"
    assert charged(engine) == 4


@pytest.mark.parametrize("arrived", [0, 1])
def test_a_chunk_and_a_cancellation_at_once_come_one_after_the_other(
    engine: Engine, issuer: InProcessService, other: InProcessService, arrived: int
) -> None:
    granted = 0
    for _ in range(10):
        one = batch(4, 2)
        for chunk in one[:arrived]:
            issuer.issue(chunk)
        with ThreadPoolExecutor(2) as pool:
            said = pool.submit(issuer.issue, one[arrived])
            cancelled = pool.submit(other.issue, cancelling(one[0]["batch"])).result()
        is_first = code(said.result()) is None
        assert cancelled["issued"] == 2 * (arrived + is_first)
        assert cancelled["released"] == (2 if arrived != is_first else 0)
        granted += cancelled["issued"]
    assert [charged(engine, window) for window in BOTH] == [granted, granted]
