"""The bytes of an aborted multipart upload are given back, once storage has nothing of it."""

from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import MultipartUpload, Usage
from tests.integration.usecases.uploads.conftest import BUCKET, KEYS, SIZE, multipart_message
from tests.support.builders.messages import Clock, grant_message
from tests.support.builders.services import InProcessService
from worker.aws import objects
from worker.db.engine import read_transaction
from worker.errors import Transient
from worker.usecases.upkeep.abort_uploads import abort_expired
from worker.usecases.upkeep.aborted_uploads import CHECK_DELAY
from worker.usecases.upkeep.cleanup import clean_up

ALL = len(KEYS) * SIZE


def usage(engine: Engine, column: Any = Usage.upload_bytes) -> dict[str, int]:
    with read_transaction(engine) as connection:
        return {row[0]: row[1] for row in connection.execute(select(Usage.window, column))}


def states(engine: Engine) -> list[str]:
    with read_transaction(engine) as connection:
        query = select(MultipartUpload.state).order_by(MultipartUpload.item_number)
        return list(connection.scalars(query))


def cancel(service: InProcessService, batch: str, **fields: Any) -> dict[str, Any]:
    header = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "ann", "batch": batch}
    return service.issue(header | {"abort_uploads": True} | fields)


def abort_and_check(service: InProcessService, clock: Clock) -> None:
    abort_expired(service.context)
    clock.time += CHECK_DELAY
    abort_expired(service.context)


def complete(owner: Any, grant: dict[str, Any]) -> None:
    upload = {"Bucket": BUCKET, "Key": grant["key"], "UploadId": grant["multipart"]["upload_id"]}
    part = owner.upload_part(**upload, PartNumber=1, Body=bytes(SIZE))
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    owner.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})


def test_a_cancelled_batch_gets_the_bytes_of_its_uploads_back_and_not_its_grants(
    engine: Engine, service: InProcessService, clock: Clock, unfinished: Any
) -> None:
    message = multipart_message()
    service.issue(message)
    assert set(usage(engine).values()) == {ALL}
    assert cancel(service, message["batch"])["aborting"] == len(KEYS)
    abort_and_check(service, clock)
    assert unfinished() == 0
    assert set(usage(engine).values()) == {0}
    assert set(usage(engine, Usage.grants).values()) == {len(KEYS)}
    assert states(engine) == ["closed"] * len(KEYS)


def test_nothing_is_given_back_before_storage_had_time_to_complete_an_upload(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    message = multipart_message()
    service.issue(message)
    cancel(service, message["batch"])
    abort_expired(service.context)
    clock.time += CHECK_DELAY - CHECK_DELAY / 100
    abort_expired(service.context)
    assert set(usage(engine).values()) == {ALL}


def test_an_upload_is_given_back_once(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    message = multipart_message()
    service.issue(message)
    service.issue(multipart_message())
    for _ in range(2):
        cancel(service, message["batch"])
        abort_and_check(service, clock)
    assert set(usage(engine).values()) == {ALL}


def test_a_completed_upload_stays_charged(
    engine: Engine, service: InProcessService, clock: Clock, owner: Any
) -> None:
    message = multipart_message()
    first, *_ = service.issue(message)["items"]
    complete(owner, first)
    owner.delete_object(Bucket=BUCKET, Key=first["key"])  # as its consumer does after reading it
    cancel(service, message["batch"])
    abort_and_check(service, clock)
    assert set(usage(engine).values()) == {SIZE}


def test_an_upload_that_was_completed_while_it_was_aborted_stays_charged(
    engine: Engine, service: InProcessService, clock: Clock, owner: Any
) -> None:
    message = multipart_message()
    first, *_ = service.issue(message)["items"]
    cancel(service, message["batch"])
    abort_expired(service.context)
    metadata = {"grant-id": first["id"]}
    owner.put_object(Bucket=BUCKET, Key=first["key"], Body=b"x", Metadata=metadata)
    clock.time += CHECK_DELAY
    abort_expired(service.context)
    owner.delete_object(Bucket=BUCKET, Key=first["key"])
    assert set(usage(engine).values()) == {SIZE}


def test_an_upload_that_its_client_aborted_stays_charged_as_it_cannot_be_told_from_a_completed_one(
    engine: Engine, service: InProcessService, clock: Clock, owner: Any
) -> None:
    message = multipart_message()
    first, *_ = service.issue(message)["items"]
    upload_id = first["multipart"]["upload_id"]
    owner.abort_multipart_upload(Bucket=BUCKET, Key=first["key"], UploadId=upload_id)
    cancel(service, message["batch"])
    abort_and_check(service, clock)
    assert set(usage(engine).values()) == {SIZE}


def test_an_expired_upload_leaves_the_windows_that_were_charged_and_live_once(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    service.issue(multipart_message())
    service.issue(multipart_message(expires_in=3_000))
    clock.forward(minutes=10)
    abort_expired(service.context)
    clean_up(service.context)
    assert usage(engine)["live"] == ALL
    clock.time += CHECK_DELAY
    abort_expired(service.context)
    assert set(usage(engine).values()) == {ALL}


def test_a_cancellation_that_does_not_ask_for_it_aborts_no_upload(
    service: InProcessService, unfinished: Any
) -> None:
    message = multipart_message()
    service.issue(message)
    assert "aborting" not in cancel(service, message["batch"], abort_uploads=False)
    abort_expired(service.context)
    assert unfinished() == len(KEYS)


def test_no_part_is_granted_of_an_upload_that_is_being_aborted(service: InProcessService) -> None:
    message = multipart_message()
    first, *_ = service.issue(message)["items"]
    cancel(service, message["batch"])
    terms = {"kind": "parts", "bucket": "demo", "expires_in": 600, "of": first["id"]}
    request = grant_message([first["key"]], grant=terms)
    outcome = service.issue(request | {"items": [{"key": first["key"], "part": 1}]})
    assert outcome["refusal"]["code"] == "upload_unknown"


def test_storage_that_lists_no_uploads_gets_them_aborted_and_nothing_is_given_back(
    engine: Engine,
    service: InProcessService,
    clock: Clock,
    unfinished: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def deny(*_: object) -> list[objects.ListedUpload]:
        raise Transient("storage lists no uploads: AccessDenied")

    message = multipart_message()
    service.issue(message)
    cancel(service, message["batch"])
    monkeypatch.setattr(objects, "list_uploads", deny)
    abort_and_check(service, clock)
    assert unfinished() == 0
    assert set(usage(engine).values()) == {ALL}
