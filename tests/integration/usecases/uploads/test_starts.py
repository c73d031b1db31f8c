"""Uploads are recorded before they are started: whatever happens, none is left in storage."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from models import MultipartUpload, UploadStart
from tests.integration.usecases.uploads.conftest import (
    KEYS,
    ON_SQLITE,
    clean_up,
    multipart_message,
    rows,
)
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from tests.support.fakes.http_storage import StorageResponse, StoredRequest
from tests.support.s3.unreliable_storage import (
    HUNG_UP,
    SLOW_DOWN,
    UnreliableStorage,
    fail_at,
    is_start,
)
from worker.aws import objects
from worker.aws.silent_buckets import SILENCE
from worker.errors import StorageSilent, Transient
from worker.usecases import upload_starts
from worker.usecases.upkeep.abort_uploads import abort_expired


class Killed(BaseException):
    """Ends the process at once, without any cleanup of its own."""


def test_an_upload_of_a_grant_leaves_no_record_of_its_start(
    engine: Engine, service: InProcessService, clock: Clock, unfinished: Callable[[], int]
) -> None:
    outcome = service.issue(multipart_message())
    assert [item["key"] for item in outcome["items"]] == list(KEYS)
    assert rows(engine, UploadStart) == []
    assert clean_up(service, clock) == {"ended": 0, "postponed": 0}
    assert unfinished() == len(KEYS) == len(rows(engine, MultipartUpload))


@ON_SQLITE
def test_an_item_that_cannot_be_started_now_leaves_no_uploads_of_those_before(
    engine: Engine,
    service: InProcessService,
    storage: UnreliableStorage,
    clock: Clock,
    unfinished: Callable[[], int],
) -> None:
    storage.interfere = fail_at(3, SLOW_DOWN)
    message = multipart_message()
    for _ in range(2):
        with pytest.raises(Transient, match="SlowDown"):
            service.issue(message)
        assert unfinished() == 0
        storage.interfere = fail_at(3, SLOW_DOWN)
    assert clean_up(service, clock)["postponed"] == 0
    assert rows(engine, UploadStart) == []
    storage.interfere = lambda _, forward: forward()
    assert service.issue(message)["status"] == "issued"
    assert unfinished() == len(KEYS)


def test_storage_that_does_not_answer_is_not_asked_to_abort_before_the_cleanup(
    engine: Engine,
    service: InProcessService,
    storage: UnreliableStorage,
    clock: Clock,
    unfinished: Callable[[], int],
) -> None:
    storage.interfere = fail_at(3, HUNG_UP)
    with pytest.raises(StorageSilent):
        service.issue(multipart_message())
    assert storage.count("DELETE") == 0
    assert unfinished() == 2
    storage.interfere = lambda _, forward: forward()
    assert clean_up(service, clock) == {"ended": 3, "postponed": 0}
    assert unfinished() == 0
    assert rows(engine, UploadStart) == []


@ON_SQLITE
def test_storage_that_did_not_answer_holds_no_further_message_for_a_moment(
    service: InProcessService, storage: UnreliableStorage, clock: Clock
) -> None:
    storage.interfere = fail_at(1, HUNG_UP)
    with pytest.raises(StorageSilent):
        service.issue(multipart_message())
    calls = storage.count("POST")
    with pytest.raises(StorageSilent, match="did not answer a moment ago"):
        service.issue(multipart_message())
    assert storage.count("POST") == calls
    storage.interfere = lambda _, forward: forward()
    clock.forward(seconds=SILENCE.seconds)
    assert service.issue(multipart_message())["status"] == "issued"


@ON_SQLITE
@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_process_that_is_killed_between_two_items_leaves_uploads_to_the_cleanup(
    engine: Engine,
    service: InProcessService,
    clock: Clock,
    unfinished: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    start_upload, started = objects.start_upload, 0

    def start(*arguments: Any) -> Any:
        nonlocal started
        result, started = start_upload(*arguments), started + 1
        if started == number:
            raise Killed
        return result

    message = multipart_message()
    with monkeypatch.context() as patch:
        patch.setattr("worker.aws.objects.start_upload", start)
        patch.setattr(upload_starts.UploadStarter, "abort", lambda _: None)
        with pytest.raises(Killed):
            service.issue(message)
    assert unfinished() == number
    assert len(rows(engine, UploadStart)) == len(KEYS)
    clock.forward(minutes=4)
    assert abort_expired(service.context) == {"ended": 0, "postponed": 0}
    outcome = service.issue(message)  # delivered again, before the cleanup
    clock.forward(minutes=2)
    assert abort_expired(service.context) == {"ended": len(KEYS), "postponed": 0}
    assert unfinished() == len(KEYS)
    upload_ids = {row.upload_id for row in rows(engine, MultipartUpload)}
    assert upload_ids == {item["multipart"]["upload_id"] for item in outcome["items"]}
    assert rows(engine, UploadStart) == []


@ON_SQLITE
def test_slow_storage_holds_a_worker_for_a_short_time(
    engine: Engine,
    service: InProcessService,
    storage: UnreliableStorage,
    clock: Clock,
    unfinished: Callable[[], int],
) -> None:
    def delay(_: StoredRequest, forward: Callable[[], StorageResponse]) -> StorageResponse:
        clock.forward(seconds=6)
        return forward()

    storage.interfere, begin = delay, clock.time
    with pytest.raises(Transient, match="storage takes too long"):
        service.issue(multipart_message())
    assert clock.time - begin <= timedelta(seconds=30)  # four starts and one end
    assert unfinished() == len(rows(engine, UploadStart)) == 3
    storage.interfere = lambda _, forward: forward()
    assert clean_up(service, clock) == {"ended": 3, "postponed": 0}
    assert unfinished() == 0


@ON_SQLITE
def test_an_upload_whose_answer_was_lost_is_found_and_aborted(
    engine: Engine,
    service: InProcessService,
    storage: UnreliableStorage,
    clock: Clock,
    unfinished: Callable[[], int],
) -> None:
    def lose(request: StoredRequest, forward: Callable[[], StorageResponse]) -> StorageResponse:
        response = forward()
        return SLOW_DOWN if is_start(request) else response

    storage.interfere = lose
    with pytest.raises(Transient):
        service.issue(multipart_message())
    assert unfinished() > 0
    storage.interfere = lambda _, forward: forward()
    assert clean_up(service, clock) == {"ended": 1, "postponed": 0}
    assert unfinished() == 0
    assert rows(engine, UploadStart) == []


def test_an_upload_whose_first_answer_was_lost_is_aborted_beside_the_one_that_is_used(
    engine: Engine,
    service: InProcessService,
    storage: UnreliableStorage,
    clock: Clock,
    unfinished: Callable[[], int],
) -> None:
    lost: list[StorageResponse] = []

    def lose_first(
        request: StoredRequest, forward: Callable[[], StorageResponse]
    ) -> StorageResponse:
        response = forward()
        if is_start(request) and not lost:
            lost.append(response)
            return SLOW_DOWN
        return response

    storage.interfere = lose_first
    outcome = service.issue(multipart_message())
    assert outcome["status"] == "issued"
    assert unfinished() == len(KEYS) + 1
    assert clean_up(service, clock) == {"ended": 1, "postponed": 0}
    assert unfinished() == len(KEYS)
    assert rows(engine, UploadStart) == []
    assert len(rows(engine, MultipartUpload)) == len(KEYS)
