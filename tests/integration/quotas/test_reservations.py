from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from models import Usage
from tests.integration.conftest import Declare
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
from worker.core.policy.decisions import ChunkDecision, ChunkRequest, GrantRow, Validity
from worker.core.quotas import cost
from worker.core.tenants.config import Quota
from worker.db import reservations
from worker.db.engine import read_transaction, write_transaction
from worker.db.ledger import Ledger

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
ALL: tuple[Window, ...] = ("minute", "hour", "day", "month", "live")


PARTS = {"kind": "parts", "bucket": "demo", "expires_in": 60, "of": f"{batch_id()}.0"}


def batch(items: int, size: int) -> list[dict[str, Any]]:
    return split_chunks(grant_message([f"acme/{n}" for n in range(items)]), size)


def decided(
    message: ChunkMessage, key: str | None = None
) -> tuple[ChunkRequest, ChunkDecision, datetime]:
    """A chunk of which all is granted for a minute."""
    rows = [
        GrantRow(message.first_item + n, item.key, digest=bytes(32))
        for n, item in enumerate(message.items)
    ]
    price = cost.granted_cost(message.grant, message.items)
    asked = ChunkRequest(message, tenant_config().tenants["acme"], key)
    return (
        asked,
        ChunkDecision(rows, [], Validity(NOW, 60, "request"), "AKIDEXAMPLE", price=price),
        NOW,
    )


@pytest.fixture(autouse=True)
def tenant(declare: Declare) -> None:
    declare(tenant_config())


def test_a_chunk_is_held_as_what_it_was_granted_and_the_rest_as_what_it_may_come_to(
    engine: Engine, issuer: InProcessService
) -> None:
    sizes = {"acme/a": 10, "globex/b": 20, "acme/c": 30, "acme/d": 40}
    first, second = split_chunks(put_message(sizes, max_size=100), 2)
    issuer.issue(first)
    assert reserved(engine) == [(reservations.REMAINING, 2, 2), (0, 1, 1)]
    assert charged(engine, "live", "upload_bytes") == 10 + 2 * 100
    issuer.issue(second)
    assert reserved(engine) == [(0, 1, 1), (1, 2, 2)]
    assert charged(engine, "live", "upload_bytes") == 10 + 30 + 40


@pytest.mark.parametrize("keys", [["globex/a"], ["globex/a", "globex/b"]])
def test_a_chunk_that_was_granted_nothing_is_not_held(
    engine: Engine, issuer: InProcessService, keys: list[str]
) -> None:
    for chunk in split_chunks(grant_message(keys), 1):
        issuer.issue(chunk)
    assert reserved(engine) == []
    assert [charged(engine, window) for window in ALL] == [0] * 5


def test_nothing_is_held_of_a_refused_batch(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    declare(tenant_config(Quota("grants", "live", 3)))
    for chunk in split_chunks(upload_message([f"acme/{n}" for n in range(4)]), 2):
        assert issuer.issue(chunk)["status"] == "refused"
    assert reserved(engine) == []
    assert [charged(engine, window) for window in ALL] == [0] * 5


def test_a_batch_takes_chunks_for_a_day_and_then_releases_those_that_never_came(
    engine: Engine, issuer: InProcessService, clock: Clock
) -> None:
    ledger, (first, second, third) = Ledger(engine), batch(6, 2)
    granted = issuer.issue(first)
    clock.forward(hours=23, minutes=59)
    assert ledger.release_lapsed(clock()) == 1  # the first chunk's links
    assert issuer.issue(second)["status"] == "issued"
    clock.forward(minutes=1)
    assert ledger.release_lapsed(clock()) == 1
    assert [charged(engine, window) for window in ALL] == [4, 4, 4, 4, 2]
    assert issuer.issue(third)["refusal"]["code"] == "batch_closed"
    assert issuer.issue(first)["items"] == granted["items"]


def test_a_batch_that_is_through_is_not_held_open(
    engine: Engine, issuer: InProcessService, clock: Clock
) -> None:
    for chunk in batch(5, 2)[::-1]:
        issuer.issue(chunk)
    assert reserved(engine) == [(0, 2, 2), (1, 2, 2), (2, 1, 1)]
    clock.forward(days=2)
    Ledger(engine).release_lapsed(clock())
    assert [charged(engine, window) for window in ("month", "live")] == [5, 0]


def test_a_batch_of_parts_costs_nothing_and_is_held_open_all_the_same(engine: Engine) -> None:
    ledger = Ledger(engine)
    whole = grant_message(["acme/film"] * 2, grant=PARTS)
    whole["items"] = [item | {"part": n} for n, item in enumerate(whole["items"], 1)]
    first, second = (ChunkMessage.model_validate(chunk) for chunk in split_chunks(whole, 1))
    for chunk, rest in ((first, [(reservations.REMAINING, 1, 0)]), (second, [])):
        recorded = ledger.record(*decided(chunk))
        assert isinstance(recorded, ChunkDecision)
        assert recorded.refusal is None
        assert reserved(engine) == rest
    assert [charged(engine, window) for window in ALL] == [0] * 5


@pytest.mark.parametrize("window", ["month", "live"])
def test_a_counter_runs_full_and_never_over_though_no_quota_is_declared(
    engine: Engine, issuer: InProcessService, window: Window
) -> None:
    start, most = cost.window_start(window, NOW), 2**62
    costs = {"grants": 0, "download_grants": 0, "upload_bytes": most - 9}
    with write_transaction(engine) as connection:
        row = {"tenant": "acme", "window": window, "start": start, **costs}
        connection.execute(insert(Usage), row)
    explanation, refused = (
        issuer.issue(upload_message(max_size=10) | {"ask": ask}) for ask in ("explain", "grants")
    )
    assert explanation["decision"] == "refuse"
    refusal = refused["refusal"]
    assert (refusal["code"], refusal["limit"]) == ("quota_exceeded", most)
    assert issuer.issue(upload_message(max_size=9))["status"] == "issued"
    assert charged(engine, window, "upload_bytes") == most


def test_what_is_live_is_counted_by_the_key_that_asked(engine: Engine) -> None:
    ledger = Ledger(engine)
    for key in ("main", "main", "spare", None):
        ledger.record(*decided(ChunkMessage.model_validate(batch(4, 2)[0]), key))
    with read_transaction(engine) as connection:
        assert reservations.live_grants(connection, NOW) == {
            ("acme", "main"): 4,
            ("acme", "spare"): 2,
            ("acme", None): 2,
        }
        assert (
            reservations.live_grants(connection, NOW + timedelta(minutes=1)) == {}
        )  # though nobody swept
