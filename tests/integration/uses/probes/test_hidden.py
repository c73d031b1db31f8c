"""Ended upload slots whose storage refuses to tell of an object: only a proof gives bytes back."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert
from structlog.testing import capture_logs

from models import Denial, EndedSlot, Settlement, Use
from tests.integration.conftest import ApplyConfig
from tests.integration.uses.probes.conftest import BUCKET, config
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from tests.support.fakes.http_storage import StorageResponse
from tests.support.s3.unreliable_storage import UnreliableStorage
from tests.support.uses.charges import charged, rows
from tests.support.uses.reports import stored
from tests.support.uses.uploading import Uploader
from worker.aws.clients import S3Clients
from worker.core.tenants.config import TenantConfig
from worker.db.engine import write_transaction
from worker.usecases.uses.record import record_uses

Settle = Callable[[], dict[str, int]]
KEY_ARN = "arn:aws:kms:us-east-1:111122223333:key/1234abcd"


def answer(storage: UnreliableStorage, *, end: str = "", status: int = 403) -> None:
    """Let storage answer each HEAD of a key with this end like this."""
    storage.interfere = lambda request, forward: (
        StorageResponse(status)
        if request.method == "HEAD" and request.target.endswith(end)
        else forward()
    )


def hide_missing(storage: UnreliableStorage) -> None:
    """Let storage answer 403 for what is missing, as AWS does without s3:ListBucket."""

    def interfere(_: Any, forward: Callable[[], StorageResponse]) -> StorageResponse:
        response = forward()
        return StorageResponse(403) if response.status == 404 else response

    storage.interfere = interfere


def test_an_object_that_storage_hides_alone_is_not_taken_for_missing(
    engine: Engine, uploader: Uploader, settle: Settle, storage: UnreliableStorage
) -> None:
    for grant in uploader.request("put", "acme/shown", "acme/hidden", size=10):
        uploader.store(grant, b"1234567890")
    answer(storage, end="/hidden")
    assert settle() == {"settled": 1}
    assert charged(engine) == 20
    assert rows(engine, Settlement.unused, Settlement.returned_bytes) == [("", 0)]


def test_an_object_that_the_policy_of_its_bucket_denies_is_not_taken_for_missing(
    engine: Engine, uploader: Uploader, settle: Settle, owner: Any
) -> None:
    for grant in uploader.request("put", "acme/shown", "acme/denied", size=10):
        uploader.store(grant, b"1234567890")
    denial = {"Effect": "Deny", "Principal": "*", "Action": ["s3:GetObject"]}
    denial["Resource"] = [f"arn:aws:s3:::{BUCKET}/acme/denied"]
    policy = json.dumps({"Version": "2012-10-17", "Statement": [denial]})
    owner.put_bucket_policy(Bucket=BUCKET, Policy=policy)
    try:
        assert settle() == {"settled": 1}
    finally:
        owner.delete_bucket_policy(Bucket=BUCKET)
    assert rows(engine, Use.item_number) == [(0,)]
    assert charged(engine) == 20


def test_storage_that_hides_what_is_missing_is_asked_for_one_key_that_nothing_has(
    engine: Engine, uploader: Uploader, settle: Settle, storage: UnreliableStorage
) -> None:
    grants = uploader.request("put", *(f"acme/{number}" for number in range(5)), size=10)
    uploader.store(grants[0], b"1234567890")
    hide_missing(storage)
    assert settle() == {"settled": 1}
    assert charged(engine) == 10
    assert storage.count("HEAD") == 5 + 1


@pytest.fixture
def denial(engine: Engine, service: InProcessService) -> None:
    """A revocation's statement in the policy of the bucket."""
    denial = {"sid": "Valetkey1", "revocation_id": "1", "bucket": "demo"}
    denial |= {"storage": BUCKET, "statement": '{"Sid": "Valetkey1"}'}
    with write_transaction(engine) as connection:
        lapses_at = service.context.now() + timedelta(days=1)
        connection.execute(insert(Denial), denial | {"lapses_at": lapses_at})


@pytest.mark.usefixtures("denial")
@pytest.mark.parametrize(("is_aws", "left"), [(False, 20), (True, 10)])
def test_while_a_denial_hides_objects_an_answer_of_403_proves_nothing(
    engine: Engine,
    uploader: Uploader,
    settle: Settle,
    storage: UnreliableStorage,
    monkeypatch: pytest.MonkeyPatch,
    is_aws: bool,  # noqa: FBT001 - a parameter of the test
    left: int,
) -> None:
    monkeypatch.setattr(S3Clients, "is_aws", lambda *_: is_aws)
    shown, _ = uploader.request("put", "acme/shown", "acme/hidden", size=10)
    uploader.store(shown, b"1234567890")
    hide_missing(storage)
    assert settle() == {"settled": 1}
    assert charged(engine) == left


@pytest.mark.usefixtures("denial")
def test_a_settlement_that_a_denial_postpones_names_the_denial(
    uploader: Uploader, settle: Settle, storage: UnreliableStorage
) -> None:
    uploader.put("acme/hidden", 10)
    answer(storage)
    with capture_logs() as logs:
        settle()
    [problem] = [each["problem"] for each in logs if each["event"] == "settlement_postponed"]
    assert "a revocation denies objects of the bucket to every request" in problem


def test_an_object_whose_key_the_credentials_may_not_use_is_not_taken_for_missing(
    engine: Engine,
    uploader: Uploader,
    settle: Settle,
    storage: UnreliableStorage,
    apply_config: ApplyConfig,
) -> None:
    policies = {"demo": replace(config().tenants["acme"].policies["demo"], kms_keys=(KEY_ARN,))}
    apply_config(config(policies=policies))
    uploader.store(uploader.put("acme/shown", 10), b"1234567890")
    hide_missing(storage)
    encryption = {"algorithm": "aws:kms", "key": KEY_ARN}
    uploader.form("acme/plain")
    uploader.form("acme/encrypted", encryption=encryption)
    assert settle() == {"settled": 3}
    assert charged(engine) == 10 + 1_000
    assert sorted(rows(engine, Settlement.unused)) == [("",), ("",), ("0",)]


def test_an_item_that_storage_refuses_to_tell_of_holds_up_no_other(
    engine: Engine, uploader: Uploader, settle: Settle, storage: UnreliableStorage
) -> None:
    grants = uploader.request("put", "acme/odd", "acme/there", "acme/missing", size=10)
    uploader.store(grants[1], b"1234567890")
    answer(storage, end="/odd", status=400)
    assert settle() == {"settled": 1}
    assert rows(engine, Settlement.unused, Settlement.returned_bytes) == [("2", 10)]
    assert rows(engine, Use.item_number) == [(1,)]


def test_storage_that_refuses_to_tell_of_anything_is_asked_again_later(
    engine: Engine, uploader: Uploader, settle: Settle, storage: UnreliableStorage
) -> None:
    for number in range(4):
        uploader.put(f"acme/odd{number}", 10)
    uploader.put("acme/missing", 10)
    answer(storage, end="", status=400)
    assert settle() == {"postponed": 5}
    assert storage.count("HEAD") == 5  # one of these answers says nothing about the next chunk
    assert len(rows(engine, EndedSlot.chunk_number)) == 5


def test_events_that_tell_of_every_item_settle_a_slot_without_probes(
    engine: Engine,
    uploader: Uploader,
    service: InProcessService,
    settle: Settle,
    clock: Clock,
    apply_config: ApplyConfig,
) -> None:
    profile = replace(config().buckets["demo"], probe_rate=0)
    apply_config(TenantConfig({"demo": profile}, config().tenants))
    grant = uploader.form("acme/a")
    record_uses([stored(grant.id, grant.key, clock(), size=3, bucket=BUCKET)], service.context)
    assert settle() == {"settled": 1}
    assert charged(engine) == 3
