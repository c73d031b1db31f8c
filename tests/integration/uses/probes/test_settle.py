"""Ended upload slots are settled: what they did not use is given back, exactly once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from sqlalchemy import text

from models import Delivery, EndedSlot, Leaf, Settlement, Usage, Use
from tests.integration.uses.probes.conftest import BUCKET, TEN, Slots, config, demo
from tests.support.builders.messages import download_message, grant_message, upload_message
from tests.support.servers.waiting import wait_until
from tests.support.uses.reports import stored
from valetkey.wire.replies import Grant
from worker.base.database_engine import read_transaction, write_transaction
from worker.rules.tenant_config import TenantConfig, WebhookEndpoint
from worker.uses import ended_slots
from worker.uses import settlement as settle_module
from worker.uses.ended_slots import claim_ended_chunks
from worker.uses.use_rows import leave_out_excess
from worker.webhooks.decided_batches import DELIVER_TASK

SETTLED = (Settlement.unused, Settlement.used_bytes, Settlement.returned_bytes)
HOOK = WebhookEndpoint("hook", "https://hook.example.com/", "env:HOOK")


def verdicts(slots: Slots) -> set[tuple[Any, ...]]:
    return set(slots.rows(Use.event, Use.verdict))


def test_a_slot_that_nobody_used_gives_all_of_its_bytes_back(slots: Slots) -> None:
    slots.form("acme/a")
    assert slots.charged_bytes() == 1_000
    assert slots.end_and_settle() == {"settled": 1}
    assert {size for (size,) in slots.rows(Usage.upload_bytes)} == {0}
    assert slots.rows(*SETTLED) == [("0", 0, 1_000)]
    assert slots.rows(EndedSlot.is_settled) == [(True,)]
    assert ("settlement",) in slots.rows(Leaf.kind)


def test_a_chunk_of_downloads_is_not_settled_among_others(slots: Slots) -> None:
    slots.issue(download_message())
    slots.form("acme/a")
    assert slots.end_and_settle() == {"settled": 1}
    assert slots.rows(Settlement.batch_number) == [(2,)]


def test_a_tenant_with_many_slots_delays_no_other_tenant(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ended_slots, "MAX_SLOT_ITEMS", 2)
    acme = config().tenants["acme"]
    globex = replace(acme, name="globex")
    slots.apply(TenantConfig(config().buckets, {"acme": acme, "globex": globex}))
    for number in range(4):
        slots.form(f"acme/{number}")
    terms = {"kind": "upload", "bucket": "demo", "expires_in": 300, "max_size": 10}
    slots.ids(grant_message(["acme/other"], tenant="globex", grant=terms))
    slots.end()
    with write_transaction(slots.engine) as connection:
        claimed = claim_ended_chunks(connection, "demo", slots.clock(), 20, lambda: 0.5)
    assert {slot.tenant for slot in claimed} == {"acme", "globex"}


def test_nothing_is_settled_before_late_requests_and_notifications_had_time(slots: Slots) -> None:
    slots.form("acme/a")
    slots.end()
    slots.clock.forward(seconds=-1)
    assert slots.settle() == {}
    slots.clock.forward(seconds=1)
    assert slots.settle() == {"settled": 1}


def test_an_upload_that_was_left_or_aborted_gives_its_bytes_back_once(slots: Slots) -> None:
    left, aborted, finished = (slots.multipart(f"acme/{name}") for name in "abc")
    slots.send_part(left, TEN)
    slots.abort(aborted)
    slots.store(finished, TEN)
    slots.end_and_settle()
    assert slots.charged_bytes() == 10
    assert verdicts(slots) == {("completed", "as_granted")}
    assert slots.rows(Settlement.unused) == [("",), ("0",), ("0",)]


def test_a_chunk_waits_for_the_abort_of_its_multipart_uploads(slots: Slots) -> None:
    slots.multipart("acme/a")
    slots.end()
    assert slots.settle() == {"waiting": 1}
    assert slots.charged_bytes() == 10


def test_what_was_stored_late_or_with_the_wrong_type_is_not_given_back(slots: Slots) -> None:
    wrong = slots.put("acme/wrong", content_type="image/png")
    slots.clock.forward(hours=-1)
    late = slots.put("acme/late", content_type="image/gif")
    for grant in (wrong, late):
        stored = {"Key": grant.key, "Body": TEN, "Metadata": {"grant-id": grant.id}}
        slots.owner.put_object(Bucket=BUCKET, ContentType="image/gif", **stored)
    slots.clock.forward(hours=1)
    slots.end_and_settle()
    assert verdicts(slots) == {("stored", "late"), ("stored", "mismatched")}
    assert {value for (value,) in slots.rows(Settlement.returned_bytes)} == {0}


def test_an_object_that_may_have_replaced_that_of_the_slot_proves_nothing(slots: Slots) -> None:
    first, second = slots.put("acme/same", 10), slots.put("acme/same", 20)
    slots.store(first, TEN)
    slots.store(second, 2 * TEN)
    slots.end_and_settle()
    assert slots.charged_bytes() == 30
    assert slots.rows(Settlement.unused) == [("",), ("",)]


def test_puts_for_forms_keep_and_return_their_own_sizes(slots: Slots) -> None:
    slots.apply(demo(post=False))
    keys = ("acme/full", "acme/unused", "acme/replaced")
    message = upload_message(keys, max_size=1_000, content_type="application/octet-stream")
    outcome = slots.issue(message | {"items": [{"key": key, "size": 10} for key in keys]})
    full, _, replaced = (Grant(**item) for item in outcome["items"])
    slots.store(full, TEN)
    slots.store(replaced, TEN)
    slots.owner.put_object(Bucket=BUCKET, Key=replaced.key, Body=b"x")
    slots.end_and_settle()
    assert slots.rows(*SETTLED) == [("1", 10, 10)]
    assert slots.charged_bytes() == 20


def test_an_object_that_is_older_than_the_slot_proves_that_it_stored_nothing(slots: Slots) -> None:
    slots.owner.put_object(Bucket=BUCKET, Key="acme/same", Body=b"x")
    slots.clock.forward(minutes=1)
    slots.put("acme/same")
    slots.end_and_settle()
    assert slots.charged_bytes() == 0


def test_a_form_whose_client_chooses_the_name_gives_nothing_back(slots: Slots) -> None:
    slots.form("acme/${filename}")
    slots.end_and_settle()
    assert slots.charged_bytes() == 1_000
    assert slots.rows(Settlement.unused) == [("",)]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        # The outcome expired with its grants, and the webhook does not.
        pytest.param(["acme/a", "acme/b"], [("upload.unused", 0, "pending")], id="one is unused"),
        pytest.param(["acme/a"], [], id="all are used"),
    ],
)
def test_the_endpoint_is_told_of_the_unused_slots_of_a_chunk_once_it_is_settled(
    slots: Slots, keys: list[str], told: list[tuple[Any, ...]]
) -> None:
    slots.apply(config(endpoints={"hook": HOOK}))
    triggers: list[str] = []
    slots.context = replace(slots.context, trigger=triggers.append)
    callback = {"callback": "hook", "notify": ["upload.unused"]}
    outcome = slots.issue(upload_message(keys) | callback)
    slots.store(Grant(**outcome["items"][0]), b"123")
    assert slots.end_and_settle() == {"settled": 1}
    deliveries = slots.rows(Delivery.event, Delivery.chunk_number, Delivery.state)
    assert [row for row in deliveries if row[0].startswith("upload.")] == told
    assert triggers == [DELIVER_TASK] * len(told)


def test_a_profile_with_many_chunks_gives_way_to_another_one(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots.apply(config(other={}))
    monkeypatch.setattr(settle_module, "MAX_BUCKETS", 1)
    monkeypatch.setattr(settle_module, "MAX_TURN_SECONDS", 0.0)
    for key in ("acme/1", "acme/2", "acme/3"):
        slots.form(key)
    slots.form("acme/other", bucket="other")
    assert slots.end_and_settle() == {"settled": 4}
    assert slots.asked_keys() == ["1", "other", "2", "3"]


def test_a_chunk_whose_storage_takes_longer_than_its_claim_is_left_for_later(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle_module, "lease_slot", lambda *_: timedelta(0))
    slots.request("upload", "acme/1", "acme/2")
    assert slots.end_and_settle() == {"postponed": 1}
    assert slots.asked_keys() == []
    assert len(slots.rows(EndedSlot.chunk_number)) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_uses_that_are_recorded_while_chunks_are_settled_end_in_no_deadlock(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = [slots.form(key) for key in ("acme/0", "acme/1")]
    reports = [stored(form.id, form.key, slots.clock(), bucket=BUCKET) for form in ended]
    slots.record(*reports)
    slots.end()
    newer = slots.form("acme/0")
    also_of_the_first = stored(newer.id, newer.key, slots.clock(), bucket=BUCKET)
    claimed, locked, resumed = Event(), Event(), Event()
    settle = settle_module._settle

    def settle_later(*args: Any) -> Any:
        claimed.set()
        locked.wait(10)
        return settle(*args)

    def keep_later(*args: Any) -> Any:
        locked.set()
        resumed.wait(10)
        return leave_out_excess(*args)

    monkeypatch.setattr(settle_module, "_settle", settle_later)
    monkeypatch.setattr("worker.uses.use_recorder.leave_out_excess", keep_later)
    with ThreadPoolExecutor(2) as pool:
        settlement = pool.submit(slots.settle)
        claimed.wait(10)
        uses = pool.submit(slots.record, also_of_the_first, reports[1]._replace(etag="new"))
        locked.wait(10)
        wait_until(lambda: _waits_for_a_lock(slots))
        resumed.set()
        assert (settlement.result(), uses.result().total) == ({"settled": 2}, 2)


def _waits_for_a_lock(slots: Slots) -> bool:
    with read_transaction(slots.engine) as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))
