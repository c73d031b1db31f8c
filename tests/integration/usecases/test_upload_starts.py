"""Uploads are recorded before they are started: whatever happens, none is left in storage."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import MultipartUpload, UploadStart, Usage
from tests.integration.conftest import ApplyConfig
from tests.support.builders import services
from tests.support.builders.messages import POLICY, Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.fakes.http_storage import StorageResponse, StoredRequest
from tests.support.s3.unreliable_storage import (
    SLOW_DOWN,
    UnreliableStorage,
    fail_at,
    is_start,
    unreliable_storage,
)
from worker.aws import objects
from worker.aws.clients import S3Clients
from worker.core.policy.decide import decide_chunk
from worker.core.tenants.config import Bucket, Quota, TenantConfig
from worker.db.engine import read_transaction
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage
from worker.errors import Transient
from worker.usecases import issue, upload_starts
from worker.usecases.upkeep.abandoned_uploads import GIVE_UP_AFTER
from worker.usecases.upkeep.abort_uploads import abort_expired

BUCKET = "starts"
KEYS = tuple(f"acme/film-{number}.mp4" for number in range(5))
SIZE = 1_000


class Killed(BaseException):
    """Ends the process at once, without any cleanup of its own."""


@pytest.fixture(scope="module")
def real_storage(seaweed: Storage) -> Iterator[Storage]:
    create_buckets(seaweed.client(), {BUCKET})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
        yield seaweed


@pytest.fixture
def storage(real_storage: Storage) -> Iterator[UnreliableStorage]:
    with unreliable_storage(real_storage.endpoint) as storage:
        yield storage
    for upload in listed(real_storage):
        real_storage.client().abort_multipart_upload(Bucket=BUCKET, **upload)


@pytest.fixture
def service(
    engine: Engine, storage: UnreliableStorage, clock: Clock, apply_config: ApplyConfig
) -> InProcessService:
    clock.time = datetime.now(UTC)
    apply_config(config())
    return services.build_service(engine, S3Clients(storage.url), clock)


@pytest.fixture
def unfinished(real_storage: Storage) -> Callable[[], int]:
    """A function that counts the unfinished uploads in storage."""
    return lambda: len(listed(real_storage))


def listed(storage: Storage) -> list[dict[str, str]]:
    uploads = storage.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return [{name: upload[name] for name in ("Key", "UploadId")} for upload in uploads]


def config(*quotas: Quota, bucket: str = BUCKET) -> TenantConfig:
    policies = {"demo": replace(POLICY, max_size=SIZE)}
    return TenantConfig(
        {"demo": Bucket("demo", bucket, "us-east-1", "path")},
        tenant_config(*quotas, max_batch=100, policies=policies).tenants,
    )


def multipart_message(**changes: Any) -> dict[str, Any]:
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "max_size": SIZE}
    message = grant_message(KEYS, grant=terms | changes)
    return message | {"items": [{"key": key, "size": SIZE} for key in KEYS]}


def rows(engine: Engine, table: Any) -> list[Any]:
    with read_transaction(engine) as connection:
        return list(connection.execute(select(table)))


def charged(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        query = select(Usage.upload_bytes).where(Usage.window == "day")
        return connection.execute(query).scalar() or 0


def clean_up(service: InProcessService, clock: Clock) -> dict[str, int]:
    """Run the cleanup when all of its delays are over, and before grants expire."""
    clock.forward(minutes=6)
    return abort_expired(service.context)


def test_an_upload_of_a_grant_leaves_no_record_of_its_start(
    engine: Engine, service: InProcessService, clock: Clock, unfinished: Callable[[], int]
) -> None:
    outcome = service.issue(multipart_message())
    assert [item["key"] for item in outcome["items"]] == list(KEYS)
    assert rows(engine, UploadStart) == []
    assert clean_up(service, clock) == {"ended": 0, "postponed": 0}
    assert unfinished() == len(KEYS) == len(rows(engine, MultipartUpload))


def test_an_item_that_cannot_be_started_now_leaves_no_uploads_of_those_before(
    engine: Engine,
    service: InProcessService,
    storage: UnreliableStorage,
    clock: Clock,
    unfinished: Callable[[], int],
) -> None:
    storage.interfere = fail_at(3, SLOW_DOWN)
    message = multipart_message()
    for _ in range(3):
        with pytest.raises(Transient, match="SlowDown"):
            service.issue(message)
        assert unfinished() == 0
        storage.interfere = fail_at(3, SLOW_DOWN)
    assert clean_up(service, clock)["postponed"] == 0
    assert rows(engine, UploadStart) == []
    storage.interfere = lambda _, forward: forward()
    assert service.issue(message)["status"] == "issued"
    assert unfinished() == len(KEYS)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
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


def test_the_cleanup_leaves_uploads_of_others_to_the_same_key_alone(
    service: InProcessService,
    storage: UnreliableStorage,
    real_storage: Storage,
    clock: Clock,
    unfinished: Callable[[], int],
) -> None:
    real_storage.client().create_multipart_upload(Bucket=BUCKET, Key=KEYS[0])
    clock.forward(minutes=2)  # of which the attempt knows that it was started before
    storage.interfere = fail_at(1, SLOW_DOWN)
    with pytest.raises(Transient):
        service.issue(multipart_message())
    storage.interfere = lambda _, forward: forward()
    assert clean_up(service, clock) == {"ended": 1, "postponed": 0}
    assert unfinished() == 1


def test_uploads_that_the_cleanup_took_over_are_not_granted(
    engine: Engine,
    service: InProcessService,
    clock: Clock,
    unfinished: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decide = decide_chunk

    def decide_late(*arguments: Any) -> Any:
        assert clean_up(service, clock)["ended"] == len(KEYS)
        return decide(*arguments)

    monkeypatch.setattr(issue, "decide_chunk", decide_late)
    with pytest.raises(Transient, match="took too long"):
        service.issue(multipart_message())
    assert unfinished() == 0
    assert rows(engine, MultipartUpload) == rows(engine, UploadStart) == []
    assert charged(engine) == 0


def test_uploads_of_a_transaction_that_fails_are_aborted(
    engine: Engine,
    service: InProcessService,
    unfinished: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise Transient("the database is out of reach")

    with monkeypatch.context() as patch:
        patch.setattr(issue, "insert_chunk", fail)
        with pytest.raises(Transient):
            service.issue(multipart_message())
    assert unfinished() == 0
    assert rows(engine, UploadStart) == []


def test_uploads_of_a_transaction_whose_commit_is_not_confirmed_stay_usable(
    engine: Engine,
    service: InProcessService,
    unfinished: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = issue._write_with_retries

    def commit_unheard(*arguments: Any) -> Any:
        commit(*arguments)
        raise Transient("the connection to the database was lost")

    message = multipart_message()
    with monkeypatch.context() as patch:
        patch.setattr(issue, "_write_with_retries", commit_unheard)
        with pytest.raises(Transient):
            service.issue(message)
    outcome = service.issue(message)
    assert outcome["status"] == "issued"
    assert unfinished() == len(KEYS) == len(rows(engine, MultipartUpload))


def test_uploads_refused_by_a_quota_leave_no_record(
    engine: Engine,
    service: InProcessService,
    apply_config: ApplyConfig,
    unfinished: Callable[[], int],
) -> None:
    apply_config(config(Quota("upload_bytes", "day", SIZE)))
    assert service.issue(multipart_message())["refusal"]["code"] == "quota_exceeded"
    assert unfinished() == 0
    assert rows(engine, UploadStart) == []


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


def test_uploads_are_left_to_the_lifecycle_rule_if_storage_lists_nothing_for_a_week(
    engine: Engine, service: InProcessService, storage: UnreliableStorage, clock: Clock
) -> None:
    denied = StorageResponse(403, body=b"<Error><Code>AccessDenied</Code></Error>")
    storage.interfere = fail_at(1, SLOW_DOWN)
    with pytest.raises(Transient):
        service.issue(multipart_message())
    storage.interfere = lambda _request, _forward: denied
    assert clean_up(service, clock) == {"ended": 0, "postponed": 1}
    assert abort_expired(service.context) == {"ended": 0, "postponed": 0}
    clock.time += GIVE_UP_AFTER
    assert abort_expired(service.context) == {"ended": 1, "postponed": 0}
    assert rows(engine, UploadStart) == []
