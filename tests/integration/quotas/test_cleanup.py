from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Batch, Usage
from tests.integration.conftest import ApplyConfig
from tests.support.builders import services
from tests.support.builders.messages import Clock, grant_message, split_chunks, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.quota_model.tables import charged, reserved
from valetkey.wire.messages import ChunkMessage
from worker.aws.clients import S3Clients
from worker.context import Context
from worker.core.policy.decisions import ChunkRequest
from worker.db import reservations
from worker.db.engine import create_database_engine, read_transaction, write_transaction
from worker.usecases.upkeep import cleanup
from worker.usecases.upkeep.cleanup import clean_up

EXPIRES_IN = 300  # seconds, of every grant in this module


@pytest.fixture(autouse=True)
def tenant(apply_config: ApplyConfig) -> None:
    apply_config(tenant_config())


@pytest.fixture
def contexts(engine: Engine, clock: Clock) -> Iterator[list[Context]]:
    """The contexts of two processes that clean up, each with its own connections."""
    url = engine.url.render_as_string(hide_password=False)
    engines, s3 = [create_database_engine(url), create_database_engine(url)], S3Clients()
    yield [services.build_context(engine, s3, clock) for engine in engines]
    for process_engine in engines:
        process_engine.dispose()


def chunks(items: int, size: int) -> list[dict[str, Any]]:
    """Return the chunks of a new batch."""
    return split_chunks(grant_message([f"acme/{n}" for n in range(items)]), size)


def used_windows(engine: Engine) -> set[str]:
    with read_transaction(engine) as connection:
        return set(connection.scalars(select(Usage.window)))


def test_expired_grants_are_released_once_and_only_from_the_window_live(
    engine: Engine, service: InProcessService, clock: Clock, contexts: list[Context]
) -> None:
    for chunk in chunks(5, 2):
        service.issue(chunk)
    clock.forward(minutes=EXPIRES_IN / 60 - 1)
    service.issue(grant_message())
    assert clean_up(contexts[0])["released"] == 0
    clock.forward(minutes=1)
    assert [clean_up(context)["released"] for context in contexts] == [3, 0]
    assert [charged(engine, window) for window in ("hour", "day", "month")] == [6, 6, 6]
    assert charged(engine, "live") == 1
    assert reserved(engine) == [(0, 1, 1)]


@pytest.mark.parametrize("max_rows", [7, 1_000])
def test_two_concurrent_cleanups_release_each_row_once(
    engine: Engine,
    service: InProcessService,
    clock: Clock,
    contexts: list[Context],
    monkeypatch: pytest.MonkeyPatch,
    max_rows: int,
) -> None:
    monkeypatch.setattr(cleanup, "MAX_ROWS", max_rows)
    for _ in range(30):
        for chunk in chunks(4, 1)[:3]:  # the last chunk never arrives
            service.issue(chunk)
        clock.forward(minutes=1)
    clock.forward(days=1)
    with ThreadPoolExecutor(2) as pool:
        released = list(pool.map(lambda context: clean_up(context)["released"], contexts))
    assert sum(released) + clean_up(contexts[0])["released"] == 30 * 4
    assert [charged(engine, window) for window in ("day", "month", "live")] == [90, 90, 0]
    assert reserved(engine) == []


def test_chunks_that_arrive_while_their_batches_expire_are_either_granted_or_refused(
    engine: Engine, service: InProcessService, clock: Clock, contexts: list[Context]
) -> None:
    batches = [chunks(4, 1) for _ in range(20)]
    for batch in batches:
        service.issue(batch[0])
    clock.forward(hours=23, minutes=59)
    ahead = clock() + timedelta(minutes=1)  # the clock of the process that cleans up
    with ThreadPoolExecutor(2) as pool:
        concurrent_cleanup = pool.submit(clean_up, replace(contexts[1], now=lambda: ahead))
        outcomes = [service.issue(chunk) for batch in batches for chunk in batch[1:3]]
        concurrent_cleanup.result()
    issued = sum(outcome["status"] == "issued" for outcome in outcomes)
    codes = {outcome["refusal"]["code"] for outcome in outcomes if "refusal" in outcome}
    assert codes <= {"batch_closed"}
    clock.forward(minutes=1)
    clean_up(contexts[0])
    assert [charged(engine, window) for window in ("month", "live")] == [20 + issued, issued]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_cleanup_does_not_wait_for_a_chunk_that_is_arriving(
    engine: Engine, service: InProcessService, clock: Clock, contexts: list[Context]
) -> None:
    first, second = chunks(4, 2)[0], chunks(4, 2)[0]
    service.issue(first)
    service.issue(second)
    clock.forward(days=1)
    with write_transaction(engine) as connection:
        query = select(Batch.batch_number).where(Batch.batch_id == first["batch"])
        (batch_number,) = connection.scalars(query)
        acme = tenant_config().tenants["acme"]
        request = ChunkRequest(ChunkMessage.model_validate(first), acme, None)
        assert reservations.take_from_remaining(connection, batch_number, request)
        # Both chunks' grants, and the remaining items of the other batch.
        assert clean_up(contexts[0])["released"] == 3


def test_usage_of_short_windows_is_deleted_after_two_days_and_of_long_ones_is_kept(
    engine: Engine, service: InProcessService, clock: Clock, contexts: list[Context]
) -> None:
    service.issue(grant_message())
    clock.forward(days=1, hours=23)
    clean_up(contexts[0])
    assert used_windows(engine) == {"minute", "hour", "day", "month", "live"}
    clock.forward(hours=1, minutes=1)
    clean_up(contexts[0])
    assert used_windows(engine) == {"day", "month", "live"}
