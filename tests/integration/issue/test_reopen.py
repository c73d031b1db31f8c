"""A batch by its id: its state, the outcomes of its chunks again, and its cancellation."""

from dataclasses import replace
from typing import Any

import pytest

from models import Cancellation, Chunk
from tests.support.audit_log.trials import stored_tables
from tests.support.builders.messages import (
    DEMO,
    Clock,
    batch_id,
    download_chunks,
    grant_message,
    put_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from tests.support.crypto.tokens import sign_message, tenant_keys, unseal_result
from valetkey.crypto.keys import generate_key
from valetkey.wire.refusals import Window
from valetkey.wire.replies import BatchState, Outcome
from worker.core.tenant_config import Quota
from worker.errors import Transient

MAIN, SPARE = generate_key("acme/main"), generate_key("acme/spare")
KEYS = ["acme/a", "globex/b", "acme/c", "acme/d", "acme/e"]
QUOTA = Quota("grants", "day", 10)
WINDOWS: tuple[Window, ...] = ("day", "live")


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    service.apply(tenant_config(QUOTA))
    return service


def batch_message(batch: str, **chunk: int) -> dict[str, Any]:
    """Return a message that reopens a batch, or one chunk of it."""
    return {"v": 1, "ask": "batch", "tenant": "acme", "batch": batch, **chunk}


def batch_state(service: InProcessService, batch: str) -> BatchState:
    return BatchState.model_validate(service.issue(batch_message(batch)))


def refusal_of(service: InProcessService, batch: str, **chunk: int) -> tuple[str, str]:
    outcome = Outcome.model_validate(service.issue(batch_message(batch, **chunk)))
    assert outcome.refusal is not None
    assert (outcome.items, len(outcome.quotas)) == ([], 1)
    return str(outcome.refusal.code), outcome.refusal.field


def test_terms_of_a_later_release_are_left_to_a_worker_that_knows_them(
    service: InProcessService,
) -> None:
    message = grant_message(KEYS)
    service.issue(message)
    with stored_tables(service.engine) as tables:
        tables.execute('UPDATE batches SET terms = \'{"kind": "teleport"}\'')
    with pytest.raises(Transient, match="a later release"):
        service.issue(batch_message(message["batch"], chunk=0))


def test_the_state_of_a_batch_counts_decided_chunks_and_items(service: InProcessService) -> None:
    first, *others = split_chunks(grant_message(KEYS), 2)
    service.issue(first)
    state = batch_state(service, first["batch"])
    assert (state.total, state.chunk_size, state.kind, state.bucket) == (5, 2, "download", "demo")
    assert (state.decided, state.issued, state.refused) == (1, 1, 1)
    for chunk in others:
        service.issue(chunk)
    state = batch_state(service, first["batch"])
    assert (state.decided, state.issued, state.refused) == (3, 4, 1)
    assert (state.refusal, state.cancelled) == (None, False)


@pytest.mark.parametrize(
    "batch",
    [grant_message(KEYS), upload_message(KEYS), put_message(dict.fromkeys(KEYS, 5))],
    ids=["download", "upload", "put"],
)
def test_a_reopened_chunk_has_the_same_bytes_and_is_charged_once(
    service: InProcessService, clock: Clock, batch: dict[str, Any]
) -> None:
    first = service.issue(batch)
    clock.forward(minutes=1)
    again = service.issue(batch_message(batch["batch"], chunk=0))
    assert again["items"] == first["items"]
    assert (again["batch"], again["chunk"]) == (batch["batch"], 0)
    assert (service.charged("day"), len(service.rows(Chunk))) == (4, 1)


def test_a_chunk_that_has_not_arrived_is_distinguished_from_one_that_does_not_exist(
    service: InProcessService,
) -> None:
    first, second, _ = split_chunks(grant_message(KEYS), 2)
    batch = first["batch"]
    assert refusal_of(service, batch) == ("batch_unknown", "batch")
    assert refusal_of(service, batch, chunk=1) == ("batch_unknown", "batch")
    service.issue(first)
    assert refusal_of(service, batch, chunk=1) == ("batch_unknown", "chunk")
    assert refusal_of(service, batch, chunk=3) == ("chunk_invalid", "chunk")
    service.issue(second)
    outcome = service.issue(batch_message(batch, chunk=1))
    assert (outcome["status"], outcome["quotas"][0]["used"]) == ("issued", 4)
    assert len(service.rows(Chunk)) == 2


@pytest.mark.parametrize("number", [1_000_000, 2**31, 2**63, 2**100])
def test_a_chunk_number_beyond_every_batch_is_refused_with_the_limit(
    service: InProcessService, number: int
) -> None:
    refusal = service.issue(batch_message(batch_id(), chunk=number))["refusal"]
    values = (refusal["code"], refusal["field"], refusal["limit"])
    assert values == ("chunk_invalid", "chunk", 999_999)


def test_a_refused_batch_has_its_refusal_and_its_keys(service: InProcessService) -> None:
    first, *_ = download_chunks(11, 4)
    service.issue(first)
    state = batch_state(service, first["batch"])
    assert state.refusal is not None
    assert (state.refusal.code, state.decided, state.refused) == ("quota_exceeded", 1, 4)
    again = Outcome.model_validate(service.issue(batch_message(first["batch"], chunk=0)))
    assert [item.key for item in again.items] == [f"acme/{number}" for number in range(4)]
    assert refusal_of(service, first["batch"], chunk=2) == ("quota_exceeded", "total")


def test_a_cancelled_batch_has_only_what_was_granted_before(service: InProcessService) -> None:
    message, *_ = split_chunks(grant_message(KEYS), 2)
    first = service.issue(message)
    service.cancel(message["batch"])
    state = batch_state(service, message["batch"])
    assert state.refusal is not None
    assert (state.cancelled, state.refusal.code) == (True, "batch_closed")
    assert service.issue(batch_message(message["batch"], chunk=0))["items"] == first["items"]
    assert refusal_of(service, message["batch"], chunk=1) == ("batch_closed", "batch")


def test_the_state_of_a_batch_contains_that_of_its_manifest(service: InProcessService) -> None:
    message = grant_message(KEYS, manifest="acme/results.gz")
    service.issue(message)
    manifest = batch_state(service, message["batch"]).manifest
    assert manifest is not None
    assert (manifest.key, manifest.state) == ("acme/results.gz", "pending")


def test_grants_of_a_bucket_that_is_not_allowed_now_are_refused(service: InProcessService) -> None:
    batch = grant_message(KEYS)
    service.issue(batch)
    service.apply(tenant_config(QUOTA, policies={}))
    again = service.issue(batch_message(batch["batch"], chunk=0))["items"]
    assert [(item["key"], item["code"]) for item in again] == [
        (key, "key_outside_prefix" if key == "globex/b" else "bucket_not_allowed") for key in KEYS
    ]


def test_a_form_without_a_size_is_refused_by_a_bucket_of_puts(service: InProcessService) -> None:
    batch = upload_message()
    service.issue(batch)
    config = tenant_config(QUOTA)
    service.apply(replace(config, buckets={"demo": replace(DEMO, post=False)}))
    (item,) = service.issue(batch_message(batch["batch"], chunk=0))["items"]
    assert (item["code"], item["field"]) == ("size_required", "items[0].size")


def test_any_key_of_the_tenant_reopens_a_batch_and_only_it_opens_the_response(
    service: InProcessService, clock: Clock
) -> None:
    service.apply(tenant_config(QUOTA, trust="keys", keys=tenant_keys(MAIN, SPARE)))
    batch = grant_message(KEYS)
    first = unseal_result(service.respond(sign_message(batch, MAIN, clock())).sent, MAIN)
    reopen = batch_message(batch["batch"], chunk=0)
    again = service.respond(sign_message(reopen, SPARE, clock()))
    assert unseal_result(again.sent, SPARE)["items"] == first["items"]
    assert not again.has_webhook
    assert service.refusal_code(reopen) == "signature_required"


def test_cancelling_again_releases_nothing_more(service: InProcessService) -> None:
    first, _ = download_chunks(4, 2)
    service.issue(first)
    responses = [service.cancel(first["batch"], reason="a mistake") for _ in range(3)]
    assert [response["released"] for response in responses] == [2, 0, 0]
    assert {response["issued"] for response in responses} == {2}
    assert [service.charged(window) for window in WINDOWS] == [2, 2]
    (row,) = service.rows(Cancellation)
    assert (row.batch_id, row.requested_by, row.reason) == (first["batch"], "ann", "a mistake")
