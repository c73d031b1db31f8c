"""Grants that the policy no longer allows are refused when they are requested again."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Grant, Reissue
from tests.integration.conftest import ApplyConfig
from tests.support.builders import services
from tests.support.builders.messages import (
    POLICY,
    Clock,
    grant_message,
    put_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from worker.aws.clients import S3Clients
from worker.core.tenants.config import WebhookEndpoint
from worker.db.engine import read_transaction

StartProcess = Callable[[], InProcessService]
WIDE = replace(POLICY, prefixes=("acme/", "secret/"), storage_classes=("GLACIER",))


@pytest.fixture
def service(apply_config: ApplyConfig, service: InProcessService) -> InProcessService:
    apply_config(tenant_config(policies={"demo": WIDE}))
    return service


@pytest.fixture
def start_process(engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> StartProcess:
    """A function that starts the service of another process, which signs with another key."""

    def start() -> InProcessService:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDLATER")
        return services.build_service(engine, S3Clients(), clock)

    return start


def narrow_policy(apply_config: ApplyConfig, **changes: Any) -> None:
    apply_config(tenant_config(policies={"demo": replace(WIDE, **changes)}))


def repeated(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return both messages that request the same grants again: the same one, and a batch id."""
    reopen = {"v": 1, "ask": "batch", "tenant": "acme", "batch": message["batch"], "chunk": 0}
    return [message, reopen]


def codes_or_access_keys(outcome: dict[str, Any]) -> list[str]:
    """Return the refusal code of each item, or the access key that signed it."""
    values = [item.get("code") or item["url"] for item in outcome["items"]]
    return ["AKIDLATER" if "AKIDLATER" in value else value for value in values]


def test_an_object_key_outside_the_new_prefixes_is_refused_and_the_others_are_signed(
    apply_config: ApplyConfig, service: InProcessService, start_process: StartProcess
) -> None:
    message = grant_message(["acme/a", "secret/b", "acme/c"])
    service.issue(message)
    narrow_policy(apply_config, prefixes=("acme/",))
    for repetition in repeated(message):
        outcome = start_process().issue(repetition)
        assert codes_or_access_keys(outcome) == ["AKIDLATER", "key_outside_prefix", "AKIDLATER"]
        refused = outcome["items"][1]
        assert (refused["key"], refused["field"]) == ("secret/b", "items[1].key")


@pytest.mark.parametrize(
    ("message", "changes", "code"),
    [
        (upload_message(), {"kinds": ("download",)}, "kind_not_allowed"),
        (upload_message(), {"max_size": 499_999}, "size_too_large"),
        (upload_message(), {"content_types": ()}, "content_type_not_allowed"),
        (
            put_message({"acme/a": 1}, storage_class="GLACIER"),
            {"storage_classes": ()},
            "storage_class_not_allowed",
        ),
    ],
)
def test_terms_that_the_policy_no_longer_allows_are_refused(
    apply_config: ApplyConfig,
    service: InProcessService,
    start_process: StartProcess,
    message: dict[str, Any],
    changes: dict[str, Any],
    code: str,
) -> None:
    assert service.issue(message)["status"] == "issued"
    narrow_policy(apply_config, **changes)
    for repetition in repeated(message):
        outcome = start_process().issue(repetition)
        assert (outcome["status"], outcome["refusal"]["code"]) == ("refused", code)
        assert not any("url" in item for item in outcome["items"])


HOOK = {"hook": WebhookEndpoint("hook", "https://example.com/", "env:HOOK")}


@pytest.mark.parametrize(
    ("tenant_changes", "policy_changes", "refusal"),
    [
        ({"max_batch": 1}, {}, ("batch_too_large", "total", 1)),
        ({}, {"max_batch": 1}, ("batch_too_large", "total", 1)),
        ({}, {"callbacks": ()}, ("callback_unknown", "callback", [])),
        ({"endpoints": {}}, {}, ("callback_unknown", "callback", [])),
        ({}, {"max_expires_in": 299}, ("expiry_too_long", "grant.expires_in", 299)),
    ],
    ids=["tenant's max_batch", "policy's max_batch", "callbacks", "endpoints", "max_expires_in"],
)
def test_a_batch_that_the_policy_no_longer_allows_is_refused(
    apply_config: ApplyConfig,
    service: InProcessService,
    start_process: StartProcess,
    tenant_changes: dict[str, Any],
    policy_changes: dict[str, Any],
    refusal: tuple[str, str, Any],
) -> None:
    apply_config(tenant_config(policies={"demo": WIDE}, endpoints=HOOK))
    message = grant_message(["acme/a", "acme/b"], callback="hook")  # for 300 seconds
    assert service.issue(message)["status"] == "issued"
    policies = {"demo": replace(WIDE, **policy_changes)}
    apply_config(tenant_config(**{"policies": policies, "endpoints": HOOK} | tenant_changes))
    explained = start_process().issue(message | {"ask": "explain"})
    assert [rule["refusal"]["code"] for rule in explained["rules"] if "refusal" in rule] == [
        refusal[0]
    ]
    for repetition in repeated(message):
        outcome = start_process().issue(repetition)
        refused = outcome["refusal"]
        assert (refused["code"], refused["field"], refused["limit"]) == refusal
        assert not any("url" in item for item in outcome["items"])


def test_one_chunk_of_a_batch_is_refused_for_the_total_of_its_whole_batch(
    apply_config: ApplyConfig, service: InProcessService
) -> None:
    first, second = split_chunks(grant_message(["acme/a", "acme/b"]), 1)
    service.issue(first)
    narrow_policy(apply_config, max_batch=1)
    for message in (first, second):
        assert service.issue(message)["refusal"]["code"] == "batch_too_large"


def test_grants_are_signed_again_once_they_end_within_the_new_limit_of_the_policy(
    apply_config: ApplyConfig, service: InProcessService, clock: Clock
) -> None:
    message = grant_message()  # for 300 seconds
    first = service.issue(message)
    narrow_policy(apply_config, max_expires_in=60)
    clock.forward(seconds=239)
    for repetition in repeated(message):
        assert service.issue(repetition)["refusal"]["code"] == "expiry_too_long"
    clock.forward(seconds=1)
    for repetition in repeated(message):
        assert service.issue(repetition)["items"] == first["items"]


def test_a_clock_that_is_behind_refuses_no_grant_of_the_longest_allowed_validity(
    apply_config: ApplyConfig, service: InProcessService, clock: Clock
) -> None:
    narrow_policy(apply_config, max_expires_in=300)
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


def test_grants_that_are_still_allowed_are_the_same_as_before(
    apply_config: ApplyConfig, service: InProcessService
) -> None:
    message = grant_message(["acme/a", "acme/b"])
    first = service.issue(message)
    narrow_policy(apply_config, prefixes=("acme/",), kinds=("download",), max_size=0)
    for repetition in repeated(message):
        assert service.issue(repetition)["items"] == first["items"]


def test_the_audit_log_keeps_the_digest_of_an_item_that_was_not_signed_again(
    engine: Engine,
    apply_config: ApplyConfig,
    service: InProcessService,
    start_process: StartProcess,
) -> None:
    message = grant_message(["acme/a", "secret/b", "acme/c"])
    service.issue(message)
    narrow_policy(apply_config, prefixes=("acme/",))
    start_process().issue(message)
    with read_transaction(engine) as connection:
        before = connection.scalars(select(Grant.digest).order_by(Grant.item_number)).all()
        (after,) = connection.scalars(select(Reissue.digests)).all()
    digests = [after[start : start + 32] for start in range(0, len(after), 32)]
    pairs = zip(before, digests, strict=True)
    assert [old == new for old, new in pairs] == [False, True, False]
