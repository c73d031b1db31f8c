"""Uploads are recorded before they are started: whatever happens, none is left in storage.

The cleanup takes over what no grant uses, and nothing else.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from models import MultipartUpload, UploadStart
from tests.integration.issue.uploads.conftest import (
    BUCKET,
    DENIED,
    KEYS,
    ON_SQLITE,
    SIZE,
    UploadService,
    config,
    five_uploads,
)
from tests.support.builders.messages import multipart_message
from tests.support.fakes.http_storage import StorageResponse, StoredRequest
from tests.support.s3.unreliable_storage import HUNG_UP, SLOW_DOWN, Interfere, fail_at, is_start
from worker.aborts.multipart_aborts import GIVE_UP_AFTER, abort_expired_uploads
from worker.aws import object_calls
from worker.aws.s3_clients import SILENCE
from worker.errors import StorageSilent, Transient
from worker.issue import issuer, multipart_uploads
from worker.rules.decisions import ChunkDecider
from worker.rules.tenant_config import Quota, TenantConfig


class Killed(BaseException):
    """Ends the process at once, without any cleanup of its own."""


def deny(*keys: str) -> Interfere:
    return lambda request, forward: (
        DENIED if any(key in request.target for key in keys) else forward()
    )


@ON_SQLITE
def test_an_upload_that_cannot_be_started_leaves_none_of_those_before(
    service: UploadService,
) -> None:
    service.storage.interfere = fail_at(3, SLOW_DOWN)
    message = five_uploads()
    for _ in range(2):
        with pytest.raises(Transient, match="SlowDown"):
            service.issue(message)
        assert service.unfinished() == 0
        service.storage.interfere = fail_at(3, SLOW_DOWN)
    assert service.clean_up()["postponed"] == 0
    assert service.rows(UploadStart) == []
    service.storage.interfere = lambda _, forward: forward()
    assert service.issue(message)["status"] == "issued"
    assert service.unfinished() == len(KEYS)


def test_silent_storage_is_not_asked_to_abort_before_the_cleanup(service: UploadService) -> None:
    service.fail_start(3, HUNG_UP, StorageSilent)
    assert service.storage.count("DELETE") == 0
    assert service.unfinished() == 2
    assert service.clean_up() == {"ended": 3, "postponed": 0}
    assert service.unfinished() == 0
    assert service.rows(UploadStart) == []


@ON_SQLITE
def test_silent_storage_holds_no_further_message_for_a_moment(service: UploadService) -> None:
    service.fail_start(1, HUNG_UP, StorageSilent)
    calls = service.storage.count("POST")
    with pytest.raises(StorageSilent, match="did not answer a moment ago"):
        service.issue(five_uploads())
    assert service.storage.count("POST") == calls
    service.clock.forward(seconds=SILENCE.seconds)
    assert service.issue(five_uploads())["status"] == "issued"


@ON_SQLITE
@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_process_that_is_killed_between_two_items_leaves_uploads_to_the_cleanup(
    service: UploadService, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    start_upload, started = object_calls.start_upload, 0

    def start(*arguments: Any) -> Any:
        nonlocal started
        result, started = start_upload(*arguments), started + 1
        if started == number:
            raise Killed
        return result

    message = five_uploads()
    with monkeypatch.context() as patch:
        patch.setattr("worker.aws.object_calls.start_upload", start)
        patch.setattr(multipart_uploads.UploadStarter, "abort", lambda _: None)
        with pytest.raises(Killed):
            service.issue(message)
    assert service.unfinished() == number
    assert len(service.rows(UploadStart)) == len(KEYS)
    service.clock.forward(minutes=4)
    assert abort_expired_uploads(service.context) == {"ended": 0, "postponed": 0}
    outcome = service.issue(message)  # delivered again, before the cleanup
    service.clock.forward(minutes=2)
    assert abort_expired_uploads(service.context) == {"ended": len(KEYS), "postponed": 0}
    assert service.unfinished() == len(KEYS)
    upload_ids = {row.upload_id for row in service.rows(MultipartUpload)}
    assert upload_ids == {item["multipart"]["upload_id"] for item in outcome["items"]}
    assert service.rows(UploadStart) == []


@ON_SQLITE
def test_slow_storage_holds_a_worker_for_a_short_time(service: UploadService) -> None:
    def delay(_: StoredRequest, forward: Callable[[], StorageResponse]) -> StorageResponse:
        service.clock.forward(seconds=6)
        return forward()

    service.storage.interfere, begin = delay, service.clock.time
    with pytest.raises(Transient, match="storage takes too long"):
        service.issue(five_uploads())
    assert service.clock.time - begin <= timedelta(seconds=30)  # four starts and one end
    assert service.unfinished() == len(service.rows(UploadStart)) == 3
    service.storage.interfere = lambda _, forward: forward()
    assert service.clean_up() == {"ended": 3, "postponed": 0}
    assert service.unfinished() == 0


def test_an_upload_whose_answer_was_lost_is_aborted_beside_its_twin(service: UploadService) -> None:
    lost: list[StorageResponse] = []

    def lose_first(
        request: StoredRequest, forward: Callable[[], StorageResponse]
    ) -> StorageResponse:
        response = forward()
        if is_start(request) and not lost:
            lost.append(response)
            return SLOW_DOWN
        return response

    service.storage.interfere = lose_first
    outcome = service.issue(five_uploads())
    assert outcome["status"] == "issued"
    assert service.unfinished() == len(KEYS) + 1
    assert service.clean_up() == {"ended": 1, "postponed": 0}
    assert service.unfinished() == len(KEYS)
    assert service.rows(UploadStart) == []
    assert len(service.rows(MultipartUpload)) == len(KEYS)


@ON_SQLITE
def test_a_missing_bucket_refuses_the_batch_with_storages_words(service: UploadService) -> None:
    service.apply(config(bucket="missing"))
    message = five_uploads()
    refusal = service.issue(message)["refusal"]
    assert (refusal["code"], refusal["field"]) == ("bucket_unusable", "grant.bucket")
    words = "NoSuchBucket: The specified bucket does not exist"
    assert refusal["message"] == f"storage refused it: {words}"
    assert service.charged("day", "upload_bytes") == 0
    assert service.storage.count("POST", "uploads") == 1
    assert service.issue(message)["refusal"] == refusal
    assert service.rows(UploadStart) == []


@ON_SQLITE
def test_an_item_that_storage_refuses_is_free_and_others_are_granted(
    service: UploadService,
) -> None:
    service.storage.interfere = deny(KEYS[2])
    message = five_uploads()
    outcome = service.issue(message)
    codes = [item.get("code") for item in outcome["items"]]
    assert codes == [None, None, "bucket_unusable", None, None]
    assert outcome["items"][2]["key"] == KEYS[2]
    assert service.charged("day", "upload_bytes") == 4 * SIZE
    assert service.unfinished() == 4
    assert service.issue(message)["items"][2] == outcome["items"][2]
    assert service.rows(UploadStart) == []


@ON_SQLITE
def test_a_term_that_storage_refuses_is_named(service: UploadService) -> None:
    body = b"<Error><Code>AccessControlListNotSupported</Code></Error>"
    service.storage.interfere = fail_at(3, StorageResponse(400, body=body))
    refusal = service.issue(five_uploads(acl="public-read"))["refusal"]
    assert (refusal["code"], refusal["field"]) == ("acl_not_allowed", "grant.acl")
    assert service.unfinished() == 0


@ON_SQLITE
def test_the_cleanup_leaves_uploads_of_others_to_the_same_key_alone(service: UploadService) -> None:
    service.owner.create_multipart_upload(Bucket=BUCKET, Key=KEYS[0])
    service.clock.forward(minutes=2)  # of which the attempt knows that it was started before
    service.fail_start(1, SLOW_DOWN)
    assert service.clean_up() == {"ended": 1, "postponed": 0}
    assert service.unfinished() == 1


@ON_SQLITE
def test_the_cleanup_leaves_uploads_of_another_profile_alone(service: UploadService) -> None:
    one = config()
    acme, twin = one.tenants["acme"], replace(one.buckets["demo"], name="twin")
    policies = {**acme.policies, "twin": replace(acme.policies["demo"], bucket="twin")}
    tenants = {"acme": replace(acme, policies=policies)}
    service.apply(TenantConfig({**one.buckets, "twin": twin}, tenants))
    assert service.issue(five_uploads(bucket="twin"))["status"] == "issued"
    service.fail_start(1, SLOW_DOWN)
    service.clean_up()
    assert service.unfinished() == len(KEYS)


@ON_SQLITE
def test_the_cleanup_waits_for_an_attempt_that_is_starting_an_upload_of_the_same_key(
    service: UploadService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.fail_start(1, SLOW_DOWN)
    service.clock.forward(minutes=2)  # the failed attempt is due, that of the next message is not
    decide = ChunkDecider.decide

    def decide_late(*arguments: Any) -> Any:
        assert service.unfinished() == len(KEYS)
        assert abort_expired_uploads(service.context) == {"ended": 0, "postponed": 1}
        return decide(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ChunkDecider, "decide", decide_late)
        assert service.issue(five_uploads())["status"] == "issued"
    assert service.clean_up() == {"ended": 1, "postponed": 0}
    assert service.unfinished() == len(KEYS)


@ON_SQLITE
def test_uploads_that_cannot_be_aborted_do_not_keep_others_waiting(service: UploadService) -> None:
    for key in KEYS:
        assert service.issue(multipart_message([key]))["status"] == "issued"
        service.clock.forward(seconds=1)
    service.storage.interfere = deny(*KEYS[:3])
    service.clock.forward(minutes=20)
    for _ in range(100):
        abort_expired_uploads(service.context)
        if service.unfinished() == 3:
            break
    assert service.unfinished() == 3


def test_uploads_that_the_cleanup_took_over_are_not_granted(
    service: UploadService, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = ChunkDecider.decide

    def decide_late(*arguments: Any) -> Any:
        assert service.clean_up()["ended"] == len(KEYS)
        return decide(*arguments)

    monkeypatch.setattr(ChunkDecider, "decide", decide_late)
    with pytest.raises(Transient, match="took too long"):
        service.issue(five_uploads())
    assert service.unfinished() == 0
    assert service.rows(MultipartUpload) == service.rows(UploadStart) == []
    assert service.charged("day", "upload_bytes") == 0


def test_uploads_of_a_transaction_that_fails_are_aborted(
    service: UploadService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise Transient("the database is out of reach")

    with monkeypatch.context() as patch:
        patch.setattr(issuer, "insert_new_batches", fail)
        with pytest.raises(Transient):
            service.issue(five_uploads())
    assert service.unfinished() == 0
    assert service.rows(UploadStart) == []


@ON_SQLITE
def test_uploads_of_a_transaction_whose_commit_is_not_confirmed_stay_usable(
    service: UploadService, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = issuer._write_with_retries

    def commit_unheard(*arguments: Any) -> Any:
        commit(*arguments)
        raise Transient("the connection to the database was lost")

    message = five_uploads()
    with monkeypatch.context() as patch:
        patch.setattr(issuer, "_write_with_retries", commit_unheard)
        with pytest.raises(Transient):
            service.issue(message)
    outcome = service.issue(message)
    assert outcome["status"] == "issued"
    assert service.unfinished() == len(KEYS) == len(service.rows(MultipartUpload))


@ON_SQLITE
def test_uploads_refused_by_a_quota_are_neither_started_nor_recorded(
    service: UploadService,
) -> None:
    service.apply(config(Quota("upload_bytes", "day", SIZE)))
    assert service.issue(five_uploads())["refusal"]["code"] == "quota_exceeded"
    assert service.storage.count("POST") == 0
    assert service.unfinished() == 0
    assert service.rows(UploadStart) == []


def test_uploads_that_storage_does_not_list_for_a_week_are_left(service: UploadService) -> None:
    service.fail_start(1, SLOW_DOWN)
    service.storage.interfere = lambda _request, _forward: DENIED
    assert service.clean_up() == {"ended": 0, "postponed": 1}
    assert abort_expired_uploads(service.context) == {"ended": 0, "postponed": 0}
    service.clock.time += GIVE_UP_AFTER
    assert abort_expired_uploads(service.context) == {"ended": 1, "postponed": 0}
    assert service.rows(UploadStart) == []
