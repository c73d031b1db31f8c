from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Batch, Usage
from tests.integration.conftest import Declare
from tests.support.builders import services
from tests.support.builders.messages import Clock, grant_message, split_chunks, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.quota_model.tables import charged, reserved
from valetkey.wire.messages import ChunkMessage
from worker.aws.clients import S3Clients
from worker.db import ledger, reservations
from worker.db.engine import create_database_engine, read_transaction, write_transaction
from worker.db.ledger import Ledger
from worker.usecases.cleanup import Cleanup

LIFE = 300  # seconds: of the links that are asked for here


@pytest.fixture(autouse=True)
def tenant(declare: Declare) -> None:
    declare(tenant_config())


@pytest.fixture
def sweeps(engine: Engine, clock: Clock) -> Iterator[list[Cleanup]]:
    """Two processes' upkeep, each over connections of its own."""
    url = engine.url.render_as_string(hide_password=False)
    engines, s3 = [create_database_engine(url), create_database_engine(url)], S3Clients()
    yield [Cleanup(services.build_uploads(one, s3), Ledger(one), clock) for one in engines]
    for one in engines:
        one.dispose()


def batch(items: int, size: int) -> list[dict[str, Any]]:
    return split_chunks(grant_message([f"acme/{n}" for n in range(items)]), size)


def windows(engine: Engine) -> set[str]:
    with read_transaction(engine) as connection:
        return set(connection.scalars(select(Usage.window)))


def test_what_lapsed_is_released_once_and_only_from_what_is_live(
    engine: Engine, issuer: InProcessService, clock: Clock, sweeps: list[Cleanup]
) -> None:
    for chunk in batch(5, 2):
        issuer.issue(chunk)
    clock.forward(minutes=LIFE / 60 - 1)
    issuer.issue(grant_message())
    assert sweeps[0].sweep()["lapsed"] == 0
    clock.forward(minutes=1)
    assert [sweep.sweep()["lapsed"] for sweep in sweeps] == [3, 0]
    assert [charged(engine, window) for window in ("hour", "day", "month")] == [6, 6, 6]
    assert charged(engine, "live") == 1
    assert reserved(engine) == [(0, 1, 1)]


@pytest.mark.parametrize("at_once", [7, 1_000])
def test_two_sweeps_at_once_release_each_row_once(
    engine: Engine,
    issuer: InProcessService,
    clock: Clock,
    sweeps: list[Cleanup],
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
) -> None:
    monkeypatch.setattr(ledger, "AT_ONCE", at_once)
    for _ in range(30):
        for chunk in batch(4, 1)[:3]:  # one of each never comes
            issuer.issue(chunk)
        clock.forward(minutes=1)
    clock.forward(days=1)
    with ThreadPoolExecutor(2) as pool:
        lapsed = list(pool.map(lambda sweep: sweep.sweep()["lapsed"], sweeps))
    assert sum(lapsed) + sweeps[0].sweep()["lapsed"] == 30 * 4
    assert [charged(engine, window) for window in ("day", "month", "live")] == [90, 90, 0]
    assert reserved(engine) == []


def test_chunks_that_come_while_their_batches_lapse_are_granted_or_refused_and_never_both(
    engine: Engine, issuer: InProcessService, clock: Clock, sweeps: list[Cleanup]
) -> None:
    batches = [batch(4, 1) for _ in range(20)]
    for one in batches:
        issuer.issue(one[0])
    clock.forward(days=1)
    with ThreadPoolExecutor(2) as pool:
        swept = pool.submit(sweeps[1].sweep)
        said = [issuer.issue(chunk) for one in batches for chunk in one[1:3]]
        swept.result()
    issued = sum(one["status"] == "issued" for one in said)
    assert {one["refusal"]["code"] for one in said if "refusal" in one} <= {"batch_closed"}
    sweeps[0].sweep()
    assert [charged(engine, window) for window in ("month", "live")] == [20 + issued, issued]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_sweep_waits_for_no_chunk_that_is_arriving(
    engine: Engine, issuer: InProcessService, clock: Clock, sweeps: list[Cleanup]
) -> None:
    first, second = batch(4, 2)[0], batch(4, 2)[0]
    issuer.issue(first)
    issuer.issue(second)
    clock.forward(days=1)
    with write_transaction(engine) as connection:
        (number,) = connection.scalars(select(Batch.number).where(Batch.id == first["batch"]))
        assert reservations.take_from_remaining(
            connection, number, ChunkMessage.model_validate(first)
        )
        assert sweeps[0].sweep()["lapsed"] == 3  # both chunks' links, and the other batch's rest


def test_short_windows_are_forgotten_two_days_after_and_long_ones_are_not(
    engine: Engine, issuer: InProcessService, clock: Clock, sweeps: list[Cleanup]
) -> None:
    issuer.issue(grant_message())
    clock.forward(days=1, hours=23)
    sweeps[0].sweep()
    assert windows(engine) == {"minute", "hour", "day", "month", "live"}
    clock.forward(hours=1, minutes=1)
    sweeps[0].sweep()
    assert windows(engine) == {"day", "month", "live"}
