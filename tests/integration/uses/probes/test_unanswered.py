"""Ended upload slots whose storage gives no answer, or none that proves anything."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Engine, insert, update

from models import ConfigChange, EndedSlot, Settlement
from tests.integration.conftest import ApplyConfig
from tests.integration.uses.probes.conftest import BUCKET, config
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from tests.support.fakes.http_storage import StorageResponse
from tests.support.s3.unreliable_storage import SLOW_DOWN, UnreliableStorage
from tests.support.servers.waiting import wait_until
from tests.support.uses.charges import charged, rows
from tests.support.uses.reports import stored
from tests.support.uses.uploading import Uploader
from worker.core.tenants.config import TenantConfig
from worker.core.uses.settlement import GRACE
from worker.core.uses.used_grant import UsedGrant
from worker.db.engine import write_transaction
from worker.db.tree.append import NewLeaf
from worker.db.uses import settlements
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage
from worker.usecases.upkeep.cleanup import clean_up
from worker.usecases.uses import settle as settle_module
from worker.usecases.uses.record import record_uses
from worker.usecases.uses.settle import GIVE_UP_AFTER, MIN_EARLIER_ATTEMPTS, settle_ended

Settle = Callable[[], dict[str, int]]
FORBIDDEN = StorageResponse(403)


def two_profiles(real_storage: Storage) -> TenantConfig:
    """Return the config with a second profile, of the same bucket, at this storage."""
    demo = config().buckets["demo"]
    other = replace(demo, name="other", endpoint=real_storage.endpoint)
    policies = config().tenants["acme"].policies
    policies = {**policies, "other": replace(policies["demo"], bucket="other")}
    return TenantConfig({"demo": demo, "other": other}, config(policies=policies).tenants)


@pytest.mark.parametrize("change", ["probe_rate", "access"])
def test_a_slot_of_which_nobody_can_tell_ends_without_a_settlement(
    engine: Engine, uploader: Uploader, settle: Settle, apply_config: ApplyConfig, change: str
) -> None:
    uploader.form("acme/a")
    buckets, tenants = config().buckets, config(policies={}).tenants
    if change == "probe_rate":
        buckets = {"demo": replace(buckets["demo"], probe_rate=0)}
        tenants = config().tenants
    apply_config(TenantConfig(buckets, tenants))
    assert settle() == {"ended": 1}
    assert charged(engine) == 1_000
    assert rows(engine, Settlement.unused) == []
    assert rows(engine, EndedSlot.chunk_number) == []


def test_a_slot_whose_profile_has_led_elsewhere_gives_nothing_back(
    engine: Engine,
    uploader: Uploader,
    settle: Settle,
    apply_config: ApplyConfig,
    clock: Clock,
    owner: Any,
) -> None:
    uploader.form("acme/a")
    create_buckets(owner, {"elsewhere"})
    moved = {"demo": replace(config().buckets["demo"], bucket="elsewhere")}
    apply_config(TenantConfig(moved, config().tenants))
    change = {"path": "buckets.demo.bucket", "before": BUCKET, "after": "elsewhere"}
    change |= {"changed_by": "ann", "command": "apply"}
    with write_transaction(engine) as connection:
        connection.execute(insert(ConfigChange), change | {"changed_at": clock()})
    assert settle() == {"settled": 1}
    assert charged(engine) == 1_000
    assert rows(engine, Settlement.unused) == [("",)]


def test_storage_that_hides_everything_settles_nothing_and_is_given_up_after_a_week(
    engine: Engine,
    uploader: Uploader,
    service: InProcessService,
    settle: Settle,
    storage: UnreliableStorage,
    clock: Clock,
) -> None:
    uploader.form("acme/a")
    storage.interfere = lambda request, forward: (
        FORBIDDEN if request.method == "HEAD" else forward()
    )
    assert settle() == {"postponed": 1}
    assert len(rows(engine, EndedSlot.chunk_number)) == 1
    clock.time += GIVE_UP_AFTER
    with write_transaction(engine) as connection:
        connection.execute(update(EndedSlot).values(attempts=MIN_EARLIER_ATTEMPTS))
    assert settle_ended(service.context) == {"ended": 1}
    assert charged(engine) == 1_000
    assert rows(engine, Settlement.unused) == []


def test_a_slot_that_was_not_looked_at_for_a_week_is_not_given_up_at_the_first_failure(
    uploader: Uploader,
    service: InProcessService,
    storage: UnreliableStorage,
    clock: Clock,
) -> None:
    uploader.form("acme/a")
    clock.time += GIVE_UP_AFTER
    clean_up(service.context)
    clock.time += GIVE_UP_AFTER
    storage.interfere = lambda *_: SLOW_DOWN
    assert settle_ended(service.context) == {"postponed": 1}


def test_storage_that_hides_what_is_missing_settles_once_it_shows_an_object(
    engine: Engine,
    uploader: Uploader,
    settle: Settle,
    storage: UnreliableStorage,
) -> None:
    def hide(_: Any, forward: Callable[[], StorageResponse]) -> StorageResponse:
        response = forward()
        return FORBIDDEN if response.status == 404 else response

    storage.interfere = hide
    uploader.store(uploader.put("acme/there"), b"1234567890")
    settle()
    uploader.form("acme/missing")
    assert settle() == {"settled": 1}
    assert charged(engine) == 10


def test_an_attempt_that_storage_fails_is_repeated_later_and_gives_back_once(
    engine: Engine,
    uploader: Uploader,
    service: InProcessService,
    settle: Settle,
    storage: UnreliableStorage,
    clock: Clock,
) -> None:
    uploader.store(uploader.form("acme/a"), b"123")
    uploader.form("acme/b")
    storage.interfere = lambda request, forward: (
        SLOW_DOWN if request.target.endswith("/b") else forward()
    )
    assert settle() == {"settled": 1, "postponed": 1}
    assert settle_ended(service.context) == {}
    storage.reset()
    clock.forward(minutes=10)
    assert settle_ended(service.context) == {"settled": 1}
    assert charged(engine) == 3


def test_a_probe_costs_one_request_and_none_for_what_is_known(
    uploader: Uploader,
    service: InProcessService,
    settle: Settle,
    storage: UnreliableStorage,
    clock: Clock,
) -> None:
    known, *_ = uploader.request("upload", *(f"acme/{number}" for number in range(5)))
    record_uses([stored(known.id, known.key, clock(), bucket=BUCKET)], service.context)
    assert settle() == {"settled": 1}
    asked = [request.target for request in storage.server.requests("HEAD")]
    assert asked == [f"/{BUCKET}/acme/{number}" for number in range(1, 5)]


def test_storage_that_does_not_answer_delays_no_other_profile(
    engine: Engine,
    uploader: Uploader,
    service: InProcessService,
    storage: UnreliableStorage,
    clock: Clock,
    real_storage: Storage,
    apply_config: ApplyConfig,
) -> None:
    apply_config(two_profiles(real_storage))
    uploader.form("acme/a")
    uploader.form("acme/b", bucket="other")
    clock.forward(minutes=5)
    clean_up(service.context)
    clock.time += GRACE
    answers = Event()

    def wait(_: Any, forward: Callable[[], StorageResponse]) -> StorageResponse:
        answers.wait(60)
        return forward()

    storage.interfere = wait
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(settle_ended, service.context)
        try:
            wait_until(lambda: len(rows(engine, Settlement.unused)) == 1)
        finally:
            answers.set()
        assert run.result() == {"settled": 2}


def test_a_chunk_that_the_database_does_not_take_delays_no_other_profile(
    engine: Engine,
    uploader: Uploader,
    settle: Settle,
    real_storage: Storage,
    apply_config: ApplyConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apply_config(two_profiles(real_storage))
    uploader.form("acme/a")
    uploader.form("acme/b", bucket="other")

    def insert_settlement(connection: Any, grant: UsedGrant, *values: Any) -> NewLeaf:
        if grant.bucket == "demo":
            raise OverflowError
        return settlements.insert_settlement(connection, grant, *values)

    monkeypatch.setattr(settle_module, "insert_settlement", insert_settlement)
    assert settle() == {"settled": 1}
    assert charged(engine) == 1_000
