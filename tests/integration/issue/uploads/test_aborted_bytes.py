"""The bytes of an aborted multipart upload are given back, once storage has nothing of it."""

from typing import Any

import pytest

from models import MultipartUpload, Usage
from tests.integration.issue.uploads.conftest import (
    BUCKET,
    DENIED,
    KEYS,
    SIZE,
    UploadService,
    five_uploads,
)
from tests.support.builders.messages import parts_message
from valetkey.wire.refusals import Metric
from worker.aborts import multipart_aborts
from worker.aborts.listed_uploads import ListedUpload
from worker.aborts.multipart_aborts import CHECK_DELAY, abort_expired_uploads
from worker.errors import Transient
from worker.issue.cleanup import clean_up

ALL = len(KEYS) * SIZE


def charged(service: UploadService, metric: Metric = "upload_bytes") -> set[int]:
    """Return the usage of a metric in each window."""
    return {getattr(row, metric) for row in service.rows(Usage)}


def cancel(service: UploadService, message: dict[str, Any]) -> dict[str, Any]:
    return service.cancel(message["batch"], abort_uploads=True)


def abort_and_check(service: UploadService) -> None:
    abort_expired_uploads(service.context)
    service.clock.time += CHECK_DELAY
    abort_expired_uploads(service.context)


def test_a_cancelled_batch_gets_back_its_bytes_and_not_its_grants(service: UploadService) -> None:
    message = five_uploads()
    service.issue(message)
    assert charged(service) == {ALL}
    assert cancel(service, message)["aborting"] == len(KEYS)
    abort_and_check(service)
    assert service.unfinished() == 0
    assert charged(service) == {0}
    assert charged(service, "grants") == {len(KEYS)}
    assert {upload.state for upload in service.rows(MultipartUpload)} == {"closed"}


def test_nothing_is_given_back_while_storage_may_complete_an_upload(service: UploadService) -> None:
    message = five_uploads()
    service.issue(message)
    cancel(service, message)
    abort_expired_uploads(service.context)
    service.clock.time += CHECK_DELAY - CHECK_DELAY / 100
    abort_expired_uploads(service.context)
    assert charged(service) == {ALL}


def test_an_upload_is_given_back_once(service: UploadService) -> None:
    message = five_uploads()
    service.issue(message)
    service.issue(five_uploads())
    for _ in range(2):
        cancel(service, message)
        abort_and_check(service)
    assert charged(service) == {ALL}


def test_a_completed_upload_stays_charged(service: UploadService) -> None:
    message = five_uploads()
    first, *_ = service.issue(message)["items"]
    place, owner = {"Bucket": BUCKET, "Key": first["key"]}, service.owner
    upload = place | {"UploadId": first["multipart"]["upload_id"]}
    part = owner.upload_part(**upload, PartNumber=1, Body=bytes(SIZE))
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    owner.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    owner.delete_object(**place)  # as its consumer does after reading it
    cancel(service, message)
    abort_and_check(service)
    assert charged(service) == {SIZE}
    assert {upload.state for upload in service.rows(MultipartUpload)} == {"closed"}


def test_an_upload_completed_while_it_was_aborted_stays_charged(service: UploadService) -> None:
    message = five_uploads()
    first, *_ = service.issue(message)["items"]
    cancel(service, message)
    abort_expired_uploads(service.context)
    metadata = {"grant-id": first["id"]}
    service.owner.put_object(Bucket=BUCKET, Key=first["key"], Body=b"x", Metadata=metadata)
    service.clock.time += CHECK_DELAY
    abort_expired_uploads(service.context)
    service.owner.delete_object(Bucket=BUCKET, Key=first["key"])
    assert charged(service) == {SIZE}


def test_an_upload_that_its_client_aborted_stays_charged_as_it_cannot_be_told_from_a_completed_one(
    service: UploadService,
) -> None:
    message = five_uploads()
    first, *_ = service.issue(message)["items"]
    upload_id = first["multipart"]["upload_id"]
    service.owner.abort_multipart_upload(Bucket=BUCKET, Key=first["key"], UploadId=upload_id)
    cancel(service, message)
    abort_and_check(service)
    assert charged(service) == {SIZE}


def test_an_expired_upload_leaves_the_windows_that_were_charged_and_live_once(
    service: UploadService,
) -> None:
    service.issue(five_uploads())
    service.issue(five_uploads(expires_in=3_000))
    service.clock.forward(minutes=10)
    abort_expired_uploads(service.context)
    clean_up(service.context)
    assert service.charged("live", "upload_bytes") == 2 * ALL
    service.clock.time += CHECK_DELAY
    abort_expired_uploads(service.context)
    assert charged(service) == {ALL}


def test_a_cancellation_that_does_not_ask_for_it_aborts_no_upload(service: UploadService) -> None:
    message = five_uploads()
    service.issue(message)
    assert "aborting" not in service.cancel(message["batch"])
    abort_expired_uploads(service.context)
    assert service.unfinished() == len(KEYS)


def test_no_part_is_granted_of_an_upload_that_is_being_aborted(service: UploadService) -> None:
    message = five_uploads()
    first, *_ = service.issue(message)["items"]
    cancel(service, message)
    assert service.refusal_code(parts_message(first["id"], 1, key=first["key"])) == "upload_unknown"


def deny_listing(*_: object) -> list[ListedUpload]:
    raise Transient("storage lists no uploads: AccessDenied")


def test_storage_that_lists_no_uploads_gets_them_aborted_and_nothing_is_given_back(
    service: UploadService, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = five_uploads()
    service.issue(message)
    cancel(service, message)
    monkeypatch.setattr(multipart_aborts, "list_uploads", deny_listing)
    abort_and_check(service)
    assert service.unfinished() == 0
    assert charged(service) == {ALL}


def test_bytes_wait_for_storage_that_lists_no_uploads_after_an_abort(
    service: UploadService, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = five_uploads()
    service.issue(message)
    cancel(service, message)
    abort_expired_uploads(service.context)
    service.clock.time += CHECK_DELAY
    with monkeypatch.context() as patch:
        patch.setattr(multipart_aborts, "list_uploads", deny_listing)
        abort_expired_uploads(service.context)
    assert charged(service) == {ALL}
    abort_expired_uploads(service.context)
    assert charged(service) == {0}


def test_bytes_come_back_though_storage_refuses_to_abort_what_it_has_no_more(
    service: UploadService,
) -> None:
    message = five_uploads()
    service.issue(message)
    cancel(service, message)
    abort_expired_uploads(service.context)
    service.storage.interfere = lambda request, forward: (
        DENIED if request.method == "DELETE" else forward()
    )
    service.clock.time += CHECK_DELAY
    abort_expired_uploads(service.context)
    assert charged(service) == {0}
