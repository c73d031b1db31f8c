"""Uploads that storage refuses to start, for one item or for all."""

from collections.abc import Callable

from sqlalchemy import Engine

from models import UploadStart
from tests.integration.conftest import ApplyConfig
from tests.integration.usecases.uploads.conftest import (
    KEYS,
    ON_SQLITE,
    SIZE,
    charged,
    config,
    multipart_message,
    rows,
)
from tests.support.builders.services import InProcessService
from tests.support.fakes.http_storage import StorageResponse, StoredRequest
from tests.support.s3.unreliable_storage import (
    UnreliableStorage,
    fail_at,
)

pytestmark = ON_SQLITE


def test_a_missing_bucket_refuses_the_batch_with_storages_words_and_charges_nothing(
    engine: Engine, service: InProcessService, storage: UnreliableStorage, apply_config: ApplyConfig
) -> None:
    apply_config(config(bucket="missing"))
    message = multipart_message()
    refusal = service.issue(message)["refusal"]
    assert (refusal["code"], refusal["field"]) == ("bucket_unusable", "grant.bucket")
    words = "NoSuchBucket: The specified bucket does not exist"
    assert refusal["message"] == f"storage refused it: {words}"
    assert charged(engine) == 0
    assert storage.count("POST", "uploads") == 1
    assert service.issue(message)["refusal"] == refusal
    assert rows(engine, UploadStart) == []


def test_an_item_that_storage_refuses_is_not_charged_and_the_others_are_granted(
    engine: Engine,
    service: InProcessService,
    storage: UnreliableStorage,
    unfinished: Callable[[], int],
) -> None:
    denied = StorageResponse(403, body=b"<Error><Code>AccessDenied</Code></Error>")

    def deny(request: StoredRequest, forward: Callable[[], StorageResponse]) -> StorageResponse:
        return denied if KEYS[2] in request.target else forward()

    storage.interfere = deny
    message = multipart_message()
    outcome = service.issue(message)
    codes = [item.get("code") for item in outcome["items"]]
    assert codes == [None, None, "bucket_unusable", None, None]
    assert outcome["items"][2]["key"] == KEYS[2]
    assert charged(engine) == 4 * SIZE
    assert unfinished() == 4
    assert service.issue(message)["items"][2] == outcome["items"][2]
    assert rows(engine, UploadStart) == []


def test_a_term_that_storage_refuses_is_named(
    service: InProcessService, storage: UnreliableStorage, unfinished: Callable[[], int]
) -> None:
    body = b"<Error><Code>AccessControlListNotSupported</Code></Error>"
    storage.interfere = fail_at(3, StorageResponse(400, body=body))
    refusal = service.issue(multipart_message(acl="public-read"))["refusal"]
    assert (refusal["code"], refusal["field"]) == ("acl_not_allowed", "grant.acl")
    assert unfinished() == 0
