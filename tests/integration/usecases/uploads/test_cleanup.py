"""The cleanup of uploads takes over what no grant uses, and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from models import MultipartUpload, UploadStart
from tests.integration.conftest import ApplyConfig
from tests.integration.usecases.uploads.conftest import (
    BUCKET,
    KEYS,
    ON_SQLITE,
    SIZE,
    charged,
    clean_up,
    config,
    multipart_message,
    rows,
)
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from tests.support.fakes.http_storage import StorageResponse, StoredRequest
from tests.support.s3.unreliable_storage import (
    SLOW_DOWN,
    UnreliableStorage,
    fail_at,
)
from worker.core.policy.decide import decide_chunk
from worker.core.tenants.config import Quota, TenantConfig
from worker.errors import Transient
from worker.usecases import issue
from worker.usecases.upkeep.abandoned_uploads import GIVE_UP_AFTER
from worker.usecases.upkeep.abort_uploads import abort_expired


@ON_SQLITE
def test_the_cleanup_leaves_uploads_of_others_to_the_same_key_alone(
    service: InProcessService,
    storage: UnreliableStorage,
    owner: Any,
    clock: Clock,
    unfinished: Callable[[], int],
) -> None:
    owner.create_multipart_upload(Bucket=BUCKET, Key=KEYS[0])
    clock.forward(minutes=2)  # of which the attempt knows that it was started before
    storage.interfere = fail_at(1, SLOW_DOWN)
    with pytest.raises(Transient):
        service.issue(multipart_message())
    storage.interfere = lambda _, forward: forward()
    assert clean_up(service, clock) == {"ended": 1, "postponed": 0}
    assert unfinished() == 1


@ON_SQLITE
def test_the_cleanup_leaves_uploads_of_another_profile_of_the_bucket_alone(
    service: InProcessService,
    storage: UnreliableStorage,
    clock: Clock,
    apply_config: ApplyConfig,
    unfinished: Callable[[], int],
) -> None:
    one = config()
    acme, twin = one.tenants["acme"], replace(one.buckets["demo"], name="twin")
    policies = {**acme.policies, "twin": replace(acme.policies["demo"], bucket="twin")}
    tenants = {"acme": replace(acme, policies=policies)}
    apply_config(TenantConfig({**one.buckets, "twin": twin}, tenants))
    assert service.issue(multipart_message(bucket="twin"))["status"] == "issued"
    storage.interfere = fail_at(1, SLOW_DOWN)
    with pytest.raises(Transient):
        service.issue(multipart_message())
    storage.interfere = lambda _, forward: forward()
    clean_up(service, clock)
    assert unfinished() == len(KEYS)


@ON_SQLITE
def test_the_cleanup_waits_for_an_attempt_that_is_starting_an_upload_of_the_same_key(
    service: InProcessService,
    storage: UnreliableStorage,
    clock: Clock,
    unfinished: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage.interfere = fail_at(1, SLOW_DOWN)
    with pytest.raises(Transient):
        service.issue(multipart_message())
    storage.interfere = lambda _, forward: forward()
    clock.forward(minutes=2)  # the failed attempt is due, that of the next message is not
    decide = decide_chunk

    def decide_late(*arguments: Any) -> Any:
        assert unfinished() == len(KEYS)
        assert abort_expired(service.context) == {"ended": 0, "postponed": 1}
        return decide(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(issue, "decide_chunk", decide_late)
        assert service.issue(multipart_message())["status"] == "issued"
    assert clean_up(service, clock) == {"ended": 1, "postponed": 0}
    assert unfinished() == len(KEYS)


@ON_SQLITE
def test_uploads_that_cannot_be_aborted_do_not_keep_others_waiting(
    service: InProcessService,
    storage: UnreliableStorage,
    clock: Clock,
    unfinished: Callable[[], int],
) -> None:
    denied = StorageResponse(403, body=b"<Error><Code>AccessDenied</Code></Error>")

    def deny(request: StoredRequest, forward: Callable[[], StorageResponse]) -> StorageResponse:
        return denied if any(key in request.target for key in KEYS[:3]) else forward()

    for key in KEYS:
        message = multipart_message()
        message |= {"items": [{"key": key, "size": SIZE}], "total": 1}
        assert service.issue(message)["status"] == "issued"
        clock.forward(seconds=1)
    storage.interfere = deny
    clock.forward(minutes=20)
    for _ in range(100):
        abort_expired(service.context)
        if unfinished() == 3:
            break
    assert unfinished() == 3


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


@ON_SQLITE
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


@ON_SQLITE
def test_uploads_refused_by_a_quota_are_not_started_and_leave_no_record(
    engine: Engine,
    service: InProcessService,
    storage: UnreliableStorage,
    apply_config: ApplyConfig,
    unfinished: Callable[[], int],
) -> None:
    apply_config(config(Quota("upload_bytes", "day", SIZE)))
    assert service.issue(multipart_message())["refusal"]["code"] == "quota_exceeded"
    assert storage.count("POST") == 0
    assert unfinished() == 0
    assert rows(engine, UploadStart) == []


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
