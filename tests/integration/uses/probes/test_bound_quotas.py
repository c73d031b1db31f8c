"""Quotas of upload bytes bind who uses a grant again, larger, late, or many times."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from models import EndedSlot, Settlement, StoredObject, Usage, Use
from tests.integration.uses.probes.conftest import BUCKET, TEN, Slots, config, demo
from tests.support.audit_log.trials import verified
from tests.support.builders.messages import grant_message
from tests.support.uses.reports import stored
from valetkey.wire.refusals import Metric, Window
from valetkey.wire.replies import Grant
from worker.base.database_engine import write_transaction
from worker.rules.tenant_config import Quota
from worker.uses import ended_slots, use_rows
from worker.uses.ended_slots import claim_ended_chunks, take_ended_chunk
from worker.uses.use_reports import GRACE, SECOND_LOOK, UseReport

THOUSAND = 100 * TEN


def limit(metric: Metric, window: Window = "live", size: int = 1_000) -> Any:
    return config(quotas=(Quota(metric, window, size),))


def status(slots: Slots) -> str:
    """Ask for a slot of 1,000 bytes, and return the answer's status."""
    terms = {"kind": "upload", "bucket": "demo", "expires_in": 300, "max_size": 1_000}
    return str(slots.issue(grant_message(["acme/next"], grant=terms))["status"])


def look_again(slots: Slots) -> dict[str, int]:
    """Wait for the second look, and take it."""
    slots.clock.time += SECOND_LOOK - GRACE
    return slots.settle()


def store_late(slots: Slots, grant: Grant, body: bytes) -> None:
    """Let an upload end that began before the end of its grant."""
    metadata = {"grant-id": grant.id}
    slots.owner.put_object(Bucket=BUCKET, Key=grant.key, Body=body, Metadata=metadata)


def report_of(slots: Slots, grant: Grant, **changes: Any) -> UseReport:
    """Return a report that an object of a grant was stored now."""
    return stored(grant.id, grant.key, slots.clock(), bucket=BUCKET)._replace(**changes)


def test_a_form_that_is_used_again_with_more_bytes_gets_none_back(slots: Slots) -> None:
    form = slots.form("acme/a")
    slots.store(form, b"1")
    assert slots.ask(form).counts == {"used": 1}
    slots.store(form, THOUSAND)
    slots.end_and_settle()
    assert slots.charged_bytes() == 1_000
    assert slots.rows(Use.size) == [(1,), (1_000,)]


def test_a_form_whose_last_known_object_is_not_its_largest_is_asked_for_again(slots: Slots) -> None:
    form = slots.form("acme/a")
    for age, size in ((3, 1_000), (2, 1)):
        at = slots.clock() - timedelta(seconds=age)
        slots.record(report_of(slots, form, occurred_at=at, etag=f"{age}", size=size))
    slots.store(form, THOUSAND[:-1])
    slots.end_and_settle()
    assert slots.charged("live", "stored_bytes") == 999
    store_late(slots, form, THOUSAND)
    assert look_again(slots)["checked"] == 1
    assert slots.charged("live", "stored_bytes") == 1_000


def test_a_late_object_over_that_of_another_grant_is_found_a_day_later(slots: Slots) -> None:
    large, small = slots.form("acme/a"), slots.form("acme/a", max_size=1)
    for grant, age in ((large, 3), (small, 2)):
        at, size = slots.clock() - timedelta(seconds=age), 1_000 if grant is large else 1
        slots.record(report_of(slots, grant, occurred_at=at, etag=f"{age}", size=size))
    slots.store(small, b"1")
    slots.end_and_settle()
    store_late(slots, large, THOUSAND)
    look_again(slots)
    assert slots.charged("live", "stored_bytes") == 1_000


def test_of_two_objects_of_one_second_the_larger_counts(slots: Slots) -> None:
    form = slots.form("acme/a")
    large = report_of(slots, form, etag="a", size=1_000)
    small = large._replace(etag="b", size=1)
    for report in (large, small, large):
        slots.record(report)
    assert slots.rows(StoredObject.size) == [(1_000,)]


@pytest.mark.parametrize("metric", ["upload_bytes", "stored_bytes"])
def test_a_slot_counts_until_it_is_settled(slots: Slots, metric: Metric) -> None:
    slots.apply(limit(metric))
    slots.form("acme/a")
    slots.end()
    assert status(slots) == "refused"
    slots.settle()
    assert status(slots) == "issued"


def test_a_stored_object_counts_instead_of_its_slot_once_that_is_settled(slots: Slots) -> None:
    slots.apply(limit("stored_bytes"))
    form = slots.form("acme/a")
    slots.store(form, TEN)
    slots.end_and_settle()
    assert slots.charged("live", "stored_bytes") == 10
    assert slots.charged("live", "upload_bytes") == 0
    assert status(slots) == "refused"


def test_what_a_form_of_any_names_stores_counts_at_once_and_once(slots: Slots) -> None:
    form = slots.form("acme/${filename}")
    slots.record(report_of(slots, form, object_key="acme/any", size=600))
    assert slots.charged("live", "stored_bytes") == 600
    slots.end_and_settle()
    assert slots.charged("live", "stored_bytes") == 600


def test_objects_of_unsettled_slots_take_nothing_from_what_settled_ones_stored(
    slots: Slots,
) -> None:
    slots.store(slots.put("acme/a"), TEN)
    slots.end_and_settle()
    form = slots.form("acme/b")
    told = report_of(slots, form, size=5)
    slots.record(told, told._replace(etag="second", size=7))
    slots.record(told._replace(etag="third", size=6))
    assert slots.charged("live", "stored_bytes") == 10


def test_an_object_that_storage_dates_ahead_keeps_its_bytes(slots: Slots) -> None:
    slots.clock.time -= timedelta(days=2)
    store_late(slots, slots.form("acme/a"), TEN)
    slots.end_and_settle()
    assert slots.rows(Use.size) == []  # no source is believed that tells of the future
    assert slots.rows(Settlement.unused, Settlement.returned_bytes) == [("", 990)]


@pytest.fixture
def _two_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record no more than two uses of a grant."""
    monkeypatch.setattr(use_rows, "MAX_USES", 2)


@pytest.mark.usefixtures("_two_uses")
def test_an_item_whose_uses_are_not_all_recorded_gets_nothing_back(slots: Slots) -> None:
    form = slots.form("acme/a")
    for etag in ("first", "second"):
        slots.record(report_of(slots, form, etag=etag, size=1))
    slots.store(form, THOUSAND)
    slots.end_and_settle()
    assert slots.rows(Settlement.returned_bytes) == [(0,)]


@pytest.mark.usefixtures("_two_uses")
def test_a_late_upload_beyond_the_uses_that_are_recorded_is_charged(slots: Slots) -> None:
    form = slots.form("acme/a")
    slots.end_and_settle()
    first = report_of(slots, form, etag="a", size=1)
    slots.record(first)
    # The same object again is no use of its own: it must not hide the last one that is recorded.
    slots.record(first, first._replace(etag="b"), first._replace(etag="c", size=1_000))
    assert slots.charged_bytes() == 1_000
    assert not verified(slots.engine).problems


def test_an_upload_in_parts_counts_though_its_object_has_the_time_of_its_start(
    slots: Slots,
) -> None:
    big = slots.multipart("acme/a")
    started = slots.clock()
    slots.clock.forward(seconds=5)
    small = slots.form("acme/a")
    told = report_of(slots, small, etag="x", size=1)
    slots.record(told)
    parts: dict[str, Any] = {"event": "completed", "grant_id": big.id, "etag": "y-1", "size": 10}
    slots.record(told._replace(**parts, occurred_at=started))
    assert slots.rows(StoredObject.size) == [(10,)]


def test_an_upload_that_ends_after_the_settlement_is_charged_at_the_second_look(
    slots: Slots,
) -> None:
    form = slots.form("acme/a")
    assert slots.end_and_settle() == {"settled": 1}
    assert slots.charged_bytes() == 0
    store_late(slots, form, THOUSAND)
    assert look_again(slots) == {"checked": 1}
    assert (slots.charged_bytes(), slots.rows(Use.charged_bytes)) == (1_000, [(1_000,)])
    assert slots.rows(EndedSlot.chunk_number) == []
    assert slots.rows(Usage.upload_bytes, Usage.stored_bytes)[-1] == (1_000, 0)
    assert slots.charged("live", "stored_bytes") == 1_000


def test_storage_is_asked_again_for_what_a_used_slot_got_back(slots: Slots) -> None:
    form = slots.form("acme/a")
    slots.store(form, TEN)
    slots.end_and_settle()
    store_late(slots, form, THOUSAND)
    assert look_again(slots) == {"checked": 1}
    assert slots.charged_bytes() == 1_000


def test_a_settlement_that_comes_second_leaves_the_second_look_to_be_taken(slots: Slots) -> None:
    slots.form("acme/a")
    slots.end()
    with write_transaction(slots.engine) as connection:
        [claimed] = claim_ended_chunks(connection, "demo", slots.clock(), 10, lambda: 0.5)
    slots.clock.time += GRACE
    assert slots.settle() == {"settled": 1}
    with write_transaction(slots.engine) as connection:
        assert take_ended_chunk(connection, claimed) is None
    assert slots.rows(EndedSlot.is_settled) == [(True,)]


def test_a_second_look_that_cannot_be_taken_is_not_counted_as_one(slots: Slots) -> None:
    slots.form("acme/a")
    slots.end_and_settle()
    slots.apply(demo(probe_rate=0))
    assert look_again(slots) == {"ended": 1}
    assert slots.rows(EndedSlot.chunk_number) == []


def test_a_process_that_was_frozen_does_not_bring_the_second_look_forward(slots: Slots) -> None:
    slots.form("acme/a")
    slots.end()
    now = slots.clock()
    with write_transaction(slots.engine) as connection:
        [frozen] = ended_slots.claim_ended_chunks(connection, "demo", now, 1, lambda: 0.5)
    slots.clock.forward(hours=1)
    assert slots.settle() == {"settled": 1}
    with write_transaction(slots.engine) as connection:
        ended_slots.postpone_ended_chunk(connection, frozen, slots.clock())
    assert slots.settle() == {}
    assert slots.rows(EndedSlot.check_at) == [(frozen.ended_at + SECOND_LOOK,)]


@pytest.fixture
def late(slots: Slots) -> UseReport:
    """The event of an upload of 600 bytes that ended after the settlement of its slot."""
    form = slots.form("acme/a")
    slots.end_and_settle()
    return report_of(slots, form, size=600, source="event")


def test_an_event_of_a_late_upload_charges_it_once(slots: Slots, late: UseReport) -> None:
    for _ in range(2):
        slots.record(late)
        assert slots.charged_bytes() == 600
    slots.record(late._replace(etag="larger", size=1_000))
    assert slots.charged_bytes() == 1_000


def test_late_uses_that_are_told_together_cost_no_more_than_the_slot(
    slots: Slots, late: UseReport
) -> None:
    slots.record(late, late._replace(etag="larger", size=5_000))
    assert slots.charged_bytes() == 1_000


def test_a_late_use_of_a_form_of_any_names_costs_nothing_more(slots: Slots) -> None:
    form, _ = slots.request("upload", "acme/${filename}", "acme/named")
    told = report_of(slots, form, object_key="acme/any", size=5)
    slots.record(told)
    slots.end_and_settle()
    charged = slots.charged_bytes()
    slots.record(told._replace(etag="larger", size=600))
    assert slots.charged_bytes() == charged


@pytest.mark.parametrize(("change", "count"), [(0, 0), (1, 4)])
def test_the_log_verifies_with_what_a_late_upload_cost_and_nothing_else(
    slots: Slots, change: int, count: int
) -> None:
    form = slots.form("acme/a")
    slots.end_and_settle()
    store_late(slots, form, THOUSAND)
    look_again(slots)
    with write_transaction(slots.engine) as connection:
        day = Usage.window != "live", Usage.upload_bytes > 0
        connection.execute(
            update(Usage).where(*day).values(upload_bytes=Usage.upload_bytes + change)
        )
    problems = verified(slots.engine).problems
    assert len(problems) == count
    assert all(" upload_bytes are charged" in problem.text for problem in problems)


def test_late_objects_of_an_item_that_got_nothing_back_cost_nothing(slots: Slots) -> None:
    first, second = slots.request("upload", "acme/a", "acme/a")
    slots.store(first, TEN)
    slots.end_and_settle()
    slots.clock.forward(seconds=1)
    for size in (5, 600):
        slots.record(report_of(slots, second, etag=f"{size}", size=size))
    assert slots.charged_bytes() == 1_010


def test_a_late_upload_is_charged_beyond_the_limit(slots: Slots) -> None:
    slots.apply(limit("upload_bytes", "day"))
    form = slots.form("acme/a")
    slots.end_and_settle()
    assert status(slots) == "issued"
    store_late(slots, form, THOUSAND)
    slots.clock.time += SECOND_LOOK
    slots.settle()
    assert status(slots) == "refused"


def test_storage_is_not_asked_for_more_than_all_bytes_of_a_grant(slots: Slots) -> None:
    slots.record(report_of(slots, slots.put("acme/a")))
    slots.apply(demo(endpoint="http://127.0.0.1:1"))
    assert slots.end_and_settle() == {"settled": 1}
    assert look_again(slots) == {"checked": 1}


def test_storage_is_not_asked_again_if_its_events_tell_of_late_uploads(slots: Slots) -> None:
    slots.apply(demo(events_queue="https://sqs.us-east-1.amazonaws.com/1/events"))
    slots.form("acme/a")
    slots.end_and_settle()
    assert slots.rows(EndedSlot.chunk_number) == []
