from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from models import Usage
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import (
    Clock,
    batch_id,
    grant_message,
    put_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from tests.support.quota_model.tables import charged, reserved
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Window
from worker.context import Context
from worker.core.kinds.registry import issued_cost
from worker.core.policy.decisions import ChunkDecision, ChunkRequest, GrantRow
from worker.core.quotas import cost
from worker.core.signing.validity import Validity
from worker.core.tenants.config import Quota
from worker.db import reservations
from worker.db.batches import NewChunk
from worker.db.engine import read_transaction, write_transaction
from worker.usecases import issue
from worker.usecases.upkeep.cleanup import clean_up

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
WINDOWS: tuple[Window, ...] = ("minute", "hour", "day", "month", "live")


PARTS = {"kind": "parts", "bucket": "demo", "expires_in": 60, "of": f"{batch_id()}.0"}


def chunks(items: int, size: int) -> list[dict[str, Any]]:
    """Return the chunks of a new batch."""
    return split_chunks(grant_message([f"acme/{n}" for n in range(items)]), size)


def record(
    context: Context, chunk: dict[str, Any], signing_key: str | None = None
) -> ChunkDecision:
    """Write the decision that grants all items of a chunk for a minute."""
    message = ChunkMessage.model_validate(chunk)
    rows = [
        GrantRow(message.first_item + n, item.key, digest=bytes(32))
        for n, item in enumerate(message.items)
    ]
    cost_of_items = issued_cost(message.grant, message.items)
    decision = ChunkDecision(
        rows, [], Validity(NOW, 60, "request"), "AKIDEXAMPLE", cost=cost_of_items
    )
    request = ChunkRequest(message, tenant_config().tenants["acme"], signing_key)
    written = issue._write_with_retries(NewChunk.prepare(request, decision, NOW), context)
    assert isinstance(written, ChunkDecision)
    return written


@pytest.fixture(autouse=True)
def tenant(apply_config: ApplyConfig) -> None:
    apply_config(tenant_config())


def test_a_chunk_reserves_its_granted_cost_and_missing_chunks_their_maximum_cost(
    engine: Engine, service: InProcessService
) -> None:
    sizes = {"acme/a": 10, "globex/b": 20, "acme/c": 30, "acme/d": 40}
    first, second = split_chunks(put_message(sizes, max_size=100), 2)
    service.issue(first)
    assert reserved(engine) == [(reservations.REMAINING, 2, 2), (0, 1, 1)]
    assert charged(engine, "live", "upload_bytes") == 10 + 2 * 100
    service.issue(second)
    assert reserved(engine) == [(0, 1, 1), (1, 2, 2)]
    assert charged(engine, "live", "upload_bytes") == 10 + 30 + 40


@pytest.mark.parametrize("keys", [["globex/a"], ["globex/a", "globex/b"]])
def test_a_chunk_without_grants_has_no_reservation(
    engine: Engine, service: InProcessService, keys: list[str]
) -> None:
    for chunk in split_chunks(grant_message(keys), 1):
        service.issue(chunk)
    assert reserved(engine) == []
    assert [charged(engine, window) for window in WINDOWS] == [0] * 5


def test_a_refused_batch_has_no_reservations(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config(Quota("grants", "live", 3)))
    for chunk in split_chunks(upload_message([f"acme/{n}" for n in range(4)]), 2):
        assert service.issue(chunk)["status"] == "refused"
    assert reserved(engine) == []
    assert [charged(engine, window) for window in WINDOWS] == [0] * 5


def test_a_batch_accepts_chunks_for_a_day_and_then_releases_the_missing_ones(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    first, second, third = chunks(6, 2)
    granted = service.issue(first)
    clock.forward(hours=23, minutes=59)
    assert clean_up(service.context)["released"] == 1  # the first chunk's grants
    assert service.issue(second)["status"] == "issued"
    clock.forward(minutes=1)
    assert clean_up(service.context)["released"] == 1
    assert [charged(engine, window) for window in WINDOWS] == [4, 4, 4, 4, 2]
    assert service.issue(third)["refusal"]["code"] == "batch_closed"
    assert service.issue(first)["items"] == granted["items"]


def test_a_complete_batch_has_no_reservation_for_missing_chunks(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    for chunk in chunks(5, 2)[::-1]:
        service.issue(chunk)
    assert reserved(engine) == [(0, 2, 2), (1, 2, 2), (2, 1, 1)]
    clock.forward(days=2)
    clean_up(service.context)
    assert [charged(engine, window) for window in ("month", "live")] == [5, 0]


def test_a_batch_of_parts_costs_nothing_and_accepts_further_chunks(
    engine: Engine, service: InProcessService
) -> None:
    batch = grant_message(["acme/film"] * 2, grant=PARTS)
    batch["items"] = [item | {"part": n} for n, item in enumerate(batch["items"], 1)]
    first, second = split_chunks(batch, 1)
    for chunk, remaining in ((first, [(reservations.REMAINING, 1, 0)]), (second, [])):
        assert record(service.context, chunk).refusal is None
        assert reserved(engine) == remaining
    assert [charged(engine, window) for window in WINDOWS] == [0] * 5


@pytest.mark.parametrize("window", ["month", "live"])
def test_usage_reaches_the_ceiling_and_never_exceeds_it_without_a_quota(
    engine: Engine, service: InProcessService, window: Window
) -> None:
    start, ceiling = cost.window_start(window, NOW), 2**62
    costs = {"grants": 0, "download_grants": 0, "upload_bytes": ceiling - 9}
    with write_transaction(engine) as connection:
        row = {"tenant": "acme", "window": window, "window_start": start, **costs}
        connection.execute(insert(Usage), row)
    explanation, refused = (
        service.issue(upload_message(max_size=10) | {"ask": ask}) for ask in ("explain", "grants")
    )
    assert explanation["decision"] == "refuse"
    refusal = refused["refusal"]
    assert (refusal["code"], refusal["limit"]) == ("quota_exceeded", ceiling)
    assert service.issue(upload_message(max_size=9))["status"] == "issued"
    assert charged(engine, window, "upload_bytes") == ceiling


def test_live_grants_are_counted_by_signing_key(engine: Engine, service: InProcessService) -> None:
    for key in ("main", "main", "spare", None):
        record(service.context, chunks(4, 2)[0], key)
    with read_transaction(engine) as connection:
        assert reservations.count_live_grants(connection, NOW) == {
            ("acme", "main"): 4,
            ("acme", "spare"): 2,
            ("acme", None): 2,
        }
        # They are not live any more, although no cleanup ran.
        assert reservations.count_live_grants(connection, NOW + timedelta(minutes=1)) == {}
