"""A batch by its id: its state, the outcomes of its chunks again, and its cancellation.

Grants that the policy no longer allows are refused when they are requested again.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from models import Cancellation, Chunk, Grant, Reissue
from tests.support.audit_log.trials import stored_tables
from tests.support.builders import services
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    about_batch,
    batch_id,
    download_chunks,
    download_message,
    grant_message,
    put_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from tests.support.builders.triggers import triggered_tasks
from tests.support.crypto.tokens import sign_message, tenant_keys, unseal_result
from tests.support.features import needs
from valetkey.crypto.keys import generate_key
from valetkey.wire.refusals import Window
from valetkey.wire.replies import BatchState, Outcome
from worker.aws.s3_clients import S3Clients
from worker.errors import Transient
from worker.rules.tenant_config import Quota, WebhookEndpoint

MAIN, SPARE = generate_key("acme/main"), generate_key("acme/spare")
KEYS = ["acme/a", "globex/b", "acme/c", "acme/d", "acme/e"]
QUOTA = Quota("grants", "day", 10)
WINDOWS: tuple[Window, ...] = ("day", "live")
WIDE = replace(POLICY, prefixes=("acme/", "secret/"), plain=True)
HOOK = {"hook": WebhookEndpoint("hook", "https://example.com/", "env:HOOK")}


def narrow_policy(service: InProcessService, **changes: Any) -> None:
    """Apply a config with the policy WIDE, with changes."""
    policies = {"demo": replace(WIDE, **changes)}
    service.apply(tenant_config(QUOTA, policies=policies, endpoints=HOOK))


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    narrow_policy(service)
    return service


def batch_state(service: InProcessService, batch: str) -> BatchState:
    return BatchState.model_validate(service.issue(about_batch(batch)))


def refusal_of(service: InProcessService, batch: str, **chunk: int) -> tuple[str, str]:
    outcome = Outcome.model_validate(service.issue(about_batch(batch) | chunk))
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
        service.issue(about_batch(message["batch"], chunk=0))


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
    again = service.issue(about_batch(batch["batch"], chunk=0))
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
    outcome = service.issue(about_batch(batch, chunk=1))
    assert (outcome["status"], outcome["quotas"][0]["used"]) == ("issued", 4)
    assert len(service.rows(Chunk)) == 2


def test_a_chunk_number_beyond_every_batch_is_refused_with_the_limit(
    service: InProcessService,
) -> None:
    for number in (1_000_000, 2**31, 2**63, 2**100):
        refusal = service.issue(about_batch(batch_id(), chunk=number))["refusal"]
        values = (refusal["code"], refusal["field"], refusal["limit"])
        assert values == ("chunk_invalid", "chunk", 999_999)


def test_a_refused_batch_has_its_refusal_and_its_keys(service: InProcessService) -> None:
    first, *_ = download_chunks(11, 4)
    service.issue(first)
    state = batch_state(service, first["batch"])
    assert state.refusal is not None
    assert (state.refusal.code, state.decided, state.refused) == ("quota_exceeded", 1, 4)
    again = Outcome.model_validate(service.issue(about_batch(first["batch"], chunk=0)))
    assert [item.key for item in again.items] == [f"acme/{number}" for number in range(4)]
    assert refusal_of(service, first["batch"], chunk=2) == ("quota_exceeded", "total")


@needs("cancel")
def test_a_cancelled_batch_has_only_what_was_granted_before(service: InProcessService) -> None:
    message, *_ = split_chunks(grant_message(KEYS), 2)
    first = service.issue(message)
    service.cancel(message["batch"])
    state = batch_state(service, message["batch"])
    assert state.refusal is not None
    assert (state.cancelled, state.refusal.code) == (True, "batch_closed")
    assert service.issue(about_batch(message["batch"], chunk=0))["items"] == first["items"]
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
    again = service.issue(about_batch(batch["batch"], chunk=0))["items"]
    assert [(item["key"], item["code"]) for item in again] == [
        (key, "key_outside_prefix" if key == "globex/b" else "bucket_not_allowed") for key in KEYS
    ]


def test_a_form_without_a_size_is_refused_by_a_bucket_of_puts(service: InProcessService) -> None:
    batch = upload_message()
    service.issue(batch)
    config = tenant_config(QUOTA)
    service.apply(replace(config, buckets={"demo": replace(DEMO, post=False)}))
    (item,) = service.issue(about_batch(batch["batch"], chunk=0))["items"]
    assert (item["code"], item["field"]) == ("size_required", "items[0].size")


def test_any_key_of_the_tenant_reopens_a_batch_and_only_it_opens_the_response(
    service: InProcessService, clock: Clock
) -> None:
    service.apply(tenant_config(QUOTA, trust="keys", keys=tenant_keys(MAIN, SPARE)))
    batch = grant_message(KEYS)
    first = unseal_result(service.respond(sign_message(batch, MAIN, clock())).sent, MAIN)
    reopen = about_batch(batch["batch"], chunk=0)
    again = service.respond(sign_message(reopen, SPARE, clock()))
    assert unseal_result(again.sent, SPARE)["items"] == first["items"]
    assert triggered_tasks(again) == []
    assert service.refusal_code(reopen) == "signature_required"


@needs("cancel")
def test_cancelling_again_releases_nothing_more(service: InProcessService) -> None:
    first, _ = download_chunks(4, 2)
    service.issue(first)
    responses = [service.cancel(first["batch"], reason="a mistake") for _ in range(3)]
    assert [response["released"] for response in responses] == [2, 0, 0]
    assert {response["issued"] for response in responses} == {2}
    assert [service.charged(window) for window in WINDOWS] == [2, 2]
    (row,) = service.rows(Cancellation)
    assert (row.batch_id, row.requested_by, row.reason) == (first["batch"], "ann", "a mistake")


@pytest.fixture
def later(service: InProcessService, monkeypatch: pytest.MonkeyPatch) -> InProcessService:
    """The service of another process, which signs with another key."""
    now = service.context.now()
    service.context.s3.credentials(DEMO, "acme", (), now, timedelta(0))  # its own key is kept
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDLATER")
    return services.build_service(service.engine, S3Clients(), service.context.now)


def repeated(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return both messages that request the same grants again: the same one, and a batch id."""
    return [message, about_batch(message["batch"], chunk=0)]


def test_a_key_outside_the_new_prefixes_is_refused_keeps_its_digest_and_the_others_are_signed(
    service: InProcessService, later: InProcessService
) -> None:
    message = grant_message(["acme/a", "secret/b", "acme/c"])
    service.issue(message)
    narrow_policy(service, prefixes=("acme/",))
    for repetition in repeated(message):
        outcome = later.issue(repetition)
        first, refused, last = outcome["items"]
        assert "AKIDLATER" in first["url"]
        assert "AKIDLATER" in last["url"]
        assert (refused["key"], refused["field"]) == ("secret/b", "items[1].key")
        assert refused["code"] == "key_outside_prefix"
    before = [row.digest for row in service.rows(Grant.digest)]
    ((after,),) = service.rows(Reissue.digests)
    digests = [after[start : start + 32] for start in range(0, len(after), 32)]
    pairs = zip(before, digests, strict=True)
    assert [old == new for old, new in pairs] == [False, True, False]


TWO = grant_message(["acme/a", "acme/b"], callback="hook")  # for 300 seconds
Refusal = tuple[str, str, Any]
NARROWED: dict[str, tuple[dict[str, Any], dict[str, Any], Refusal]] = {
    "kinds": (
        *(upload_message(), {"kinds": ("download",)}),
        ("kind_not_allowed", "grant.kind", ["download"]),
    ),
    "max_expires_in": (TWO, {"max_expires_in": 299}, ("expiry_too_long", "grant.expires_in", 299)),
    "plain": (
        *(download_message(plain=True), {"plain": False}),
        ("plain_not_allowed", "grant.plain", None),
    ),
    "max_batch": (TWO, {"max_batch": 1}, ("batch_too_large", "total", 1)),
    "callbacks": (TWO, {"callbacks": ()}, ("callback_unknown", "callback", [])),
}


@pytest.mark.parametrize(("message", "changes", "expected"), NARROWED.values(), ids=NARROWED)
@needs("explain")
def test_a_batch_that_the_policy_no_longer_allows_is_refused(
    service: InProcessService,
    later: InProcessService,
    message: dict[str, Any],
    changes: dict[str, Any],
    expected: Refusal,
) -> None:
    assert service.issue(message)["status"] == "issued"
    narrow_policy(service, **changes)
    explained = later.issue(message | {"ask": "explain"})
    codes = [rule["refusal"]["code"] for rule in explained["rules"] if "refusal" in rule]
    assert codes == [expected[0]]
    for repetition in repeated(message):
        outcome = later.issue(repetition)
        refusal = outcome["refusal"]
        assert (refusal["code"], refusal["field"], refusal.get("limit")) == expected
        assert not any("url" in item for item in outcome["items"])


def test_one_chunk_is_refused_for_the_total_of_its_batch(service: InProcessService) -> None:
    first, second = split_chunks(grant_message(["acme/a", "acme/b"]), 1)
    service.issue(first)
    narrow_policy(service, max_batch=1)
    for message in (first, second):
        assert service.refusal_code(message) == "batch_too_large"


def test_grants_are_signed_again_once_they_end_within_the_new_limit_of_the_policy(
    service: InProcessService, clock: Clock
) -> None:
    message = grant_message()  # for 300 seconds
    first = service.issue(message)
    narrow_policy(service, max_expires_in=60)
    clock.forward(seconds=239)
    for repetition in repeated(message):
        assert service.refusal_code(repetition) == "expiry_too_long"
    clock.forward(seconds=1)
    for repetition in repeated(message):
        assert service.issue(repetition)["items"] == first["items"]


def test_a_clock_that_is_behind_refuses_no_grant_of_the_longest_allowed_validity(
    service: InProcessService, clock: Clock
) -> None:
    narrow_policy(service, max_expires_in=300)
    message = grant_message()  # for 300 seconds
    first = service.issue(message)
    clock.forward(seconds=-2)
    assert service.issue(message)["items"] == first["items"]


def test_a_batch_past_its_deadline_is_signed_again(service: InProcessService, clock: Clock) -> None:
    message = grant_message(deadline="2026-11-24T12:31:00Z")  # in one minute
    first = service.issue(message)
    clock.forward(minutes=2)
    for repetition in repeated(message):
        assert service.issue(repetition)["items"] == first["items"]
