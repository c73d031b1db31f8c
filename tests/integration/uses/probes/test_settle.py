"""Ended upload slots are settled: what they did not use is given back, exactly once."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine

from models import EndedSlot, Leaf, Settlement, Usage, Use
from tests.integration.conftest import ApplyConfig
from tests.integration.uses.probes.conftest import BUCKET, config
from tests.support.builders.messages import Clock, download_message
from tests.support.builders.services import InProcessService
from tests.support.fakes.http_storage import StorageResponse
from tests.support.uses.charges import charged, rows
from tests.support.uses.uploading import Uploader
from worker.core.uses.settlement import GRACE
from worker.usecases.upkeep.cleanup import clean_up
from worker.usecases.uses.settle import settle_ended

Settle = Callable[[], dict[str, int]]
FORBIDDEN = StorageResponse(403)


def verdicts(engine: Engine) -> set[tuple[Any, ...]]:
    return set(rows(engine, Use.event, Use.verdict))


def test_a_slot_that_nobody_used_gives_all_of_its_bytes_back(
    engine: Engine, uploader: Uploader, settle: Settle
) -> None:
    uploader.form("acme/a")
    assert charged(engine) == 1_000
    assert settle() == {"settled": 1}
    assert {size for (size,) in rows(engine, Usage.upload_bytes)} == {0}
    columns = (Settlement.unused, Settlement.used_bytes, Settlement.returned_bytes)
    assert rows(engine, *columns) == [("0", 0, 1_000)]
    assert rows(engine, EndedSlot.chunk_number) == []
    assert ("settlement",) in rows(engine, Leaf.kind)


def test_a_form_gives_back_what_its_object_does_not_have(
    engine: Engine, uploader: Uploader, settle: Settle
) -> None:
    uploader.store(uploader.form("acme/a"), b"123")
    settle()
    assert charged(engine) == 3
    assert verdicts(engine) == {("stored", "as_granted")}


def test_the_items_of_a_chunk_are_settled_one_by_one(
    engine: Engine, uploader: Uploader, settle: Settle
) -> None:
    _, second, *_ = uploader.request("put", "acme/a", "acme/b", "acme/c", "acme/d", size=10)
    uploader.store(second, b"1234567890")
    settle()
    columns = (Settlement.unused, Settlement.used_bytes, Settlement.returned_bytes)
    assert rows(engine, *columns) == [("0,2-3", 10, 30)]
    assert charged(engine) == 10


def test_slots_are_settled_once(
    engine: Engine, uploader: Uploader, settle: Settle, service: InProcessService
) -> None:
    uploader.form("acme/a")
    uploader.put("acme/b", 7)
    settle()
    settle_ended(service.context)
    assert charged(engine) == 0
    assert len(rows(engine, Settlement.chunk_number)) == 2


def test_a_chunk_of_downloads_is_not_settled_among_others(
    engine: Engine, service: InProcessService, uploader: Uploader, settle: Settle
) -> None:
    service.issue(download_message())
    uploader.form("acme/a")
    assert settle() == {"settled": 1}
    assert rows(engine, Settlement.batch_number) == [(2,)]


def test_nothing_is_settled_before_late_requests_and_notifications_had_time(
    uploader: Uploader, service: InProcessService, clock: Clock
) -> None:
    uploader.form("acme/a")
    clock.forward(minutes=5)
    clean_up(service.context)
    clock.time += GRACE - timedelta(seconds=1)
    assert settle_ended(service.context) == {}
    clock.forward(seconds=1)
    assert settle_ended(service.context) == {"settled": 1}


def test_a_tenant_without_refunds_is_told_what_was_unused_and_gets_nothing_back(
    engine: Engine, uploader: Uploader, settle: Settle, apply_config: ApplyConfig
) -> None:
    apply_config(config(refund_unused=False))
    uploader.form("acme/a")
    settle()
    assert charged(engine) == 1_000
    assert rows(engine, Settlement.unused, Settlement.returned_bytes) == [("0", 0)]


def test_a_multipart_upload_that_was_left_or_aborted_gives_its_bytes_back_once(
    engine: Engine, uploader: Uploader, settle: Settle
) -> None:
    left, aborted, finished = (uploader.multipart(f"acme/{name}", 10) for name in "abc")
    uploader.send_part(left, b"1234567890")
    uploader.abort(aborted)
    uploader.store(finished, b"1234567890")
    settle()
    assert charged(engine) == 10
    assert verdicts(engine) == {("completed", "as_granted")}
    assert sorted(rows(engine, Settlement.unused)) == [("",), ("0",), ("0",)]


def test_a_chunk_waits_for_the_abort_of_its_multipart_uploads(
    engine: Engine, uploader: Uploader, service: InProcessService, clock: Clock
) -> None:
    uploader.multipart("acme/a", 10)
    clock.forward(minutes=5)
    clean_up(service.context)
    clock.time += GRACE
    assert settle_ended(service.context) == {"waiting": 1}
    assert charged(engine) == 10


def test_what_was_stored_late_or_with_the_wrong_type_is_used_and_not_given_back(
    engine: Engine, uploader: Uploader, settle: Settle, clock: Clock, owner: Any
) -> None:
    wrong = uploader.put("acme/wrong", 10, content_type="image/png")
    clock.forward(hours=-1)
    late = uploader.put("acme/late", 10, content_type="image/gif")
    for grant in (wrong, late):
        stored = {"Key": grant.key, "Body": b"1234567890", "Metadata": {"grant-id": grant.id}}
        owner.put_object(Bucket=BUCKET, ContentType="image/gif", **stored)
    clock.forward(hours=1)
    settle()
    assert verdicts(engine) == {("stored", "late"), ("stored", "mismatched")}
    assert {value for (value,) in rows(engine, Settlement.returned_bytes)} == {0}


def test_an_object_that_may_have_replaced_that_of_the_slot_proves_nothing(
    engine: Engine, uploader: Uploader, settle: Settle
) -> None:
    first, second = uploader.put("acme/same", 10), uploader.put("acme/same", 20)
    uploader.store(first, b"1234567890")
    uploader.store(second, b"12345678901234567890")
    settle()
    assert charged(engine) == 30
    assert sorted(rows(engine, Settlement.unused)) == [("",), ("",)]


def test_an_object_that_is_older_than_the_slot_proves_that_it_stored_nothing(
    engine: Engine, uploader: Uploader, settle: Settle, clock: Clock, owner: Any
) -> None:
    owner.put_object(Bucket=BUCKET, Key="acme/same", Body=b"x")
    clock.forward(minutes=1)
    uploader.put("acme/same", 10)
    settle()
    assert charged(engine) == 0


def test_a_form_whose_client_chooses_the_name_gives_nothing_back(
    engine: Engine, uploader: Uploader, settle: Settle
) -> None:
    uploader.form("acme/${filename}")
    settle()
    assert charged(engine) == 1_000
    assert rows(engine, Settlement.unused) == [("",)]
