"""Grants that the policy no longer allows are refused when they are requested again."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from models import Grant, Reissue
from tests.support.builders import services
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    download_message,
    grant_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from worker.aws.s3_clients import S3Clients
from worker.core.tenant_config import WebhookEndpoint

WIDE = replace(POLICY, prefixes=("acme/", "secret/"), plain=True)


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    service.apply(tenant_config(policies={"demo": WIDE}))
    return service


def narrow_policy(service: InProcessService, **changes: Any) -> None:
    service.apply(tenant_config(policies={"demo": replace(WIDE, **changes)}))


@pytest.fixture
def later(service: InProcessService, monkeypatch: pytest.MonkeyPatch) -> InProcessService:
    """The service of another process, which signs with another key."""
    now = service.context.now()
    service.context.s3.credentials(DEMO, "acme", (), now, timedelta(0))  # its own key is kept
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDLATER")
    return services.build_service(service.engine, S3Clients(), service.context.now)


def repeated(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return both messages that request the same grants again: the same one, and a batch id."""
    reopen = {"v": 1, "ask": "batch", "tenant": "acme", "batch": message["batch"], "chunk": 0}
    return [message, reopen]


def test_an_object_key_outside_the_new_prefixes_is_refused_and_the_others_are_signed(
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


HOOK = {"hook": WebhookEndpoint("hook", "https://example.com/", "env:HOOK")}
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
def test_a_batch_that_the_policy_no_longer_allows_is_refused(
    service: InProcessService,
    later: InProcessService,
    message: dict[str, Any],
    changes: dict[str, Any],
    expected: Refusal,
) -> None:
    service.apply(tenant_config(policies={"demo": WIDE}, endpoints=HOOK))
    assert service.issue(message)["status"] == "issued"
    service.apply(tenant_config(policies={"demo": replace(WIDE, **changes)}, endpoints=HOOK))
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


def test_the_audit_log_keeps_the_digest_of_an_item_that_was_not_signed_again(
    service: InProcessService, later: InProcessService
) -> None:
    message = grant_message(["acme/a", "secret/b", "acme/c"])
    service.issue(message)
    narrow_policy(service, prefixes=("acme/",))
    later.issue(message)
    before = [row.digest for row in service.rows(Grant.digest)]
    ((after,),) = service.rows(Reissue.digests)
    digests = [after[start : start + 32] for start in range(0, len(after), 32)]
    pairs = zip(before, digests, strict=True)
    assert [old == new for old, new in pairs] == [False, True, False]
