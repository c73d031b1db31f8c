"""Ended upload slots whose storage gives no answer, or none that proves anything.

Only a proof gives bytes back.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from models import Denial, EndedSlot, Settlement, Use
from tests.integration.uses.probes.conftest import BUCKET, TEN, Slots, config, demo
from tests.support.fakes.http_storage import StorageResponse
from tests.support.s3.unreliable_storage import SLOW_DOWN
from tests.support.servers.waiting import wait_until
from tests.support.uses.reports import stored
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import write_transaction
from worker.dev.embedded_servers import Storage, create_buckets
from worker.ledger.tree_leaves import NewLeaf
from worker.rules.tenant_config import TenantConfig
from worker.uses import settlement as settle_module
from worker.uses.settlement import GIVE_UP_AFTER, MIN_EARLIER_ATTEMPTS
from worker.uses.use_reports import UsedGrant

KEY_ARN = "arn:aws:kms:us-east-1:111122223333:key/1234abcd"
FORBIDDEN, REFUSED = StorageResponse(403), StorageResponse(400)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(demo(probe_rate=0), id="the profile allows no requests"),
        pytest.param(config(policies={}), id="the tenant has no access"),
    ],
)
def test_a_slot_of_which_nobody_can_tell_ends_without_a_settlement(
    slots: Slots, changed: TenantConfig
) -> None:
    slots.form("acme/a")
    slots.apply(changed)
    assert slots.end_and_settle() == {"ended": 1}
    assert slots.charged_bytes() == 1_000
    assert slots.rows(Settlement.unused) == []
    assert slots.rows(EndedSlot.chunk_number) == []


def test_a_slot_whose_profile_has_led_elsewhere_gives_nothing_back(slots: Slots) -> None:
    slots.form("acme/a")
    create_buckets(slots.owner, {"elsewhere"})
    slots.apply(demo(bucket="elsewhere"))
    slots.log_change("buckets.demo.bucket", BUCKET)
    assert slots.end_and_settle() == {"settled": 1}
    assert slots.charged_bytes() == 1_000
    assert slots.rows(Settlement.unused) == [("",)]


def test_storage_that_hides_everything_is_given_up_after_a_week(slots: Slots) -> None:
    slots.form("acme/a")
    slots.storage.answer_heads(FORBIDDEN)
    assert slots.end_and_settle() == {"postponed": 1}
    assert len(slots.rows(EndedSlot.chunk_number)) == 1
    slots.clock.time += GIVE_UP_AFTER
    with write_transaction(slots.engine) as connection:
        connection.execute(update(EndedSlot).values(attempts=MIN_EARLIER_ATTEMPTS))
    assert slots.settle() == {"ended": 1}
    assert slots.charged_bytes() == 1_000
    assert slots.rows(Settlement.unused) == []


def test_a_slot_of_last_week_is_not_given_up_at_the_first_failure(slots: Slots) -> None:
    slots.form("acme/a")
    slots.clock.time += GIVE_UP_AFTER
    slots.end()
    slots.clock.time += GIVE_UP_AFTER
    slots.storage.answer_heads(SLOW_DOWN)
    assert slots.settle() == {"postponed": 1}


def test_an_attempt_that_storage_fails_is_repeated_later_and_gives_back_once(slots: Slots) -> None:
    slots.store(slots.form("acme/a"), b"123")
    slots.form("acme/b")
    slots.storage.answer_heads(SLOW_DOWN, "/b")
    assert slots.end_and_settle() == {"settled": 1, "postponed": 1}
    assert slots.settle() == {}
    slots.storage.reset()
    slots.clock.forward(minutes=10)
    assert slots.settle() == {"settled": 1}
    assert slots.charged_bytes() == 3


def test_a_probe_costs_one_request_and_none_for_a_known_object_of_all_bytes(slots: Slots) -> None:
    known, *_ = slots.request("upload", *(f"acme/{number}" for number in range(5)))
    slots.record(stored(known.id, known.key, slots.clock(), size=1_000, bucket=BUCKET))
    assert slots.end_and_settle() == {"settled": 1}
    assert slots.asked_keys() == ["1", "2", "3", "4"]


@pytest.fixture
def two_profiles(slots: Slots, real_storage: Storage) -> None:
    """A slot in each of two profiles of a bucket: demo, whose storage is the proxy, and other."""
    slots.apply(config(other={"endpoint": real_storage.endpoint}))
    slots.clock.forward(seconds=1)  # a slot of the moment of its profile may be older
    slots.form("acme/a")
    slots.form("acme/b", bucket="other")


@pytest.mark.usefixtures("two_profiles")
def test_storage_that_does_not_answer_delays_no_other_profile(slots: Slots) -> None:
    slots.end()
    with ThreadPoolExecutor(1) as pool:
        with slots.storage.frozen():
            run = pool.submit(slots.settle)
            wait_until(lambda: len(slots.rows(Settlement.unused)) == 1)
        assert run.result() == {"settled": 2}


@pytest.mark.usefixtures("two_profiles")
def test_a_chunk_that_the_database_does_not_take_delays_no_other_profile(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    def insert_settlement(connection: Any, grant: UsedGrant, *values: Any) -> NewLeaf:
        if grant.bucket == "demo":
            raise OverflowError
        return insert(connection, grant, *values)

    insert = settle_module.insert_settlement
    monkeypatch.setattr(settle_module, "insert_settlement", insert_settlement)
    assert slots.end_and_settle() == {"settled": 1}
    assert slots.charged_bytes() == 1_000


def test_an_object_that_storage_hides_alone_is_not_taken_for_missing(slots: Slots) -> None:
    for grant in slots.request("put", "acme/shown", "acme/hidden"):
        slots.store(grant, TEN)
    slots.storage.answer_heads(FORBIDDEN, "/hidden")
    assert slots.end_and_settle() == {"settled": 1}
    assert slots.charged_bytes() == 20
    assert slots.rows(Settlement.unused, Settlement.returned_bytes) == [("", 0)]


def test_storage_that_hides_is_asked_for_one_key_that_nothing_has(slots: Slots) -> None:
    first, *_ = slots.request("put", *(f"acme/{number}" for number in range(5)))
    slots.store(first, TEN)
    slots.storage.hide_missing()
    assert slots.end_and_settle() == {"settled": 1}
    assert slots.charged_bytes() == 10
    assert slots.storage.count("HEAD") == 5 + 1


def test_storage_that_hides_what_is_missing_settles_once_it_shows_an_object(slots: Slots) -> None:
    slots.storage.hide_missing()
    slots.store(slots.put("acme/there"), TEN)
    slots.end_and_settle()
    slots.form("acme/missing")
    assert slots.end_and_settle() == {"settled": 1}
    assert slots.charged_bytes() == 10


@pytest.fixture
def denial(slots: Slots) -> None:
    """A revocation's statement in the policy of the bucket."""
    row = {"sid": "Valetkey1", "revocation_id": "1", "bucket": "demo", "storage": BUCKET}
    lapses_at = slots.clock() + timedelta(days=1)
    slots.insert(Denial, **row, statement='{"Sid": "Valetkey1"}', lapses_at=lapses_at)


@pytest.mark.usefixtures("denial")
@pytest.mark.parametrize(("is_aws", "left"), [(False, 20), (True, 10)])
def test_while_a_denial_hides_objects_an_answer_of_403_proves_nothing(
    slots: Slots, monkeypatch: pytest.MonkeyPatch, *, is_aws: bool, left: int
) -> None:
    monkeypatch.setattr(S3Clients, "is_aws", lambda *_: is_aws)
    shown, _ = slots.request("put", "acme/shown", "acme/hidden")
    slots.store(shown, TEN)
    slots.storage.hide_missing()
    assert slots.end_and_settle() == {"settled": 1}
    assert slots.charged_bytes() == left


@pytest.mark.usefixtures("denial")
def test_a_settlement_that_a_denial_postpones_names_the_denial(slots: Slots) -> None:
    slots.put("acme/hidden")
    slots.storage.answer_heads(FORBIDDEN)
    with capture_logs() as logs:
        slots.end_and_settle()
    [problem] = [each["problem"] for each in logs if each["event"] == "settlement_postponed"]
    assert "a revocation denies objects of the bucket to every request" in problem


def test_an_object_whose_encryption_may_hide_it_is_not_taken_for_missing(slots: Slots) -> None:
    policies = {"demo": replace(config().tenants["acme"].policies["demo"], kms_keys=(KEY_ARN,))}
    slots.apply(config(policies=policies))
    slots.store(slots.put("acme/shown"), TEN)
    slots.storage.hide_missing()
    slots.form("acme/plain")
    slots.form("acme/encrypted", encryption={"algorithm": "aws:kms", "key": KEY_ARN})
    assert slots.end_and_settle() == {"settled": 3}
    assert slots.charged_bytes() == 10 + 1_000
    assert slots.rows(Settlement.unused) == [("",), ("",), ("0",)]


def test_an_item_that_storage_refuses_to_tell_of_holds_up_no_other(slots: Slots) -> None:
    _, there, _ = slots.request("put", "acme/odd", "acme/there", "acme/missing")
    slots.store(there, TEN)
    slots.storage.answer_heads(REFUSED, "/odd")
    assert slots.end_and_settle() == {"settled": 1}
    assert slots.rows(Settlement.unused, Settlement.returned_bytes) == [("2", 10)]
    assert slots.rows(Use.item_number) == [(1,)]


def test_storage_that_refuses_to_tell_of_anything_is_asked_again_later(slots: Slots) -> None:
    for number in range(5):
        slots.put(f"acme/odd{number}")
    slots.storage.answer_heads(REFUSED)
    assert slots.end_and_settle() == {"postponed": 5}
    assert slots.storage.count("HEAD") == 5  # one of these answers says nothing about the next
    assert len(slots.rows(EndedSlot.chunk_number)) == 5


def test_events_alone_settle_a_slot_and_give_nothing_back(slots: Slots) -> None:
    slots.apply(demo(probe_rate=0))
    grant = slots.form("acme/a")
    slots.record(stored(grant.id, grant.key, slots.clock(), size=3, bucket=BUCKET))
    assert slots.end_and_settle() == {"settled": 1}
    assert slots.rows(Settlement.used_bytes, Settlement.returned_bytes) == [(3, 0)]
    assert slots.charged_bytes() == 1_000
