"""An explanation equals the decision that would follow, and changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from models import Base
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    about_batch,
    batch_id,
    download_message,
    grant_message,
    multipart_message,
    parts_message,
    put_message,
    tenant_config,
)
from tests.support.builders.services import InProcessService
from tests.support.crypto.tokens import sign_message, tenant_keys, unseal_result
from valetkey.crypto.keys import generate_key
from valetkey.wire.replies import Explanation
from worker.aws.s3_clients import S3Clients
from worker.rules.tenant_config import Quota, TenantConfig

KEY = generate_key("acme/main")
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
UNUSABLE = replace(DEMO, name="unusable", bucket="no bucket")
SHORT = replace(DEMO, name="short", max_expires_in=60)


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    buckets = {bucket.name: bucket for bucket in (DEMO, UNUSABLE, SHORT)}
    policies = {name: replace(POLICY, bucket=name) for name in buckets}
    quotas = Quota("grants", "day", 3), Quota("upload_bytes", "live", 1_000)
    config = tenant_config(*quotas, policies=policies, keys=tenant_keys(KEY))
    service.apply(TenantConfig(buckets, config.tenants))
    return service


def all_rows(service: InProcessService) -> list[list[Any]]:
    return [service.rows(mapper.class_) for mapper in Base.registry.mappers]


def explain(service: InProcessService, message: dict[str, Any]) -> Explanation:
    return Explanation.model_validate(service.issue(message | {"ask": "explain"}))


Before = Callable[[dict[str, Any]], list[dict[str, Any]]]
"""Returns the messages that are sent before the one that is explained."""


def cancellation(message: dict[str, Any]) -> dict[str, Any]:
    return about_batch(message["batch"], "cancel", requested_by="ann")


def second_chunk(total: int = 3) -> dict[str, Any]:
    """Return the second chunk of a batch with one item in each chunk."""
    batch = grant_message([f"acme/{number}" for number in range(total)], chunk_size=1)
    return batch | {"chunk": 1, "items": batch["items"][1:2]}


SIZES = {"acme/a": 600, "acme/b": 400}
NEW: dict[str, dict[str, Any]] = {
    "an allowed request": grant_message(["acme/a", "acme/b"]),
    "an item refused": grant_message(["acme/a", "globex/b"]),
    "all items refused": grant_message(["globex/a"]),
    "refused by policy": download_message(content_type="text/html"),
    "shortened by policy": download_message(expires_in=604_800, min_expires_in=60),
    "an unknown bucket": download_message(bucket="nowhere"),
    "an unusable bucket": download_message(bucket="unusable"),
    "a provider's maximum too short": download_message(bucket="short", min_expires_in=61),
    "shortened by the provider": download_message(bucket="short", expires_in=300),
    "over a quota": grant_message([f"acme/{number}" for number in range(4)]),
    "within it as an item is refused": grant_message(["acme/a"] * 3 + ["x/b"]),
    "sizes within a quota": put_message(SIZES, max_size=900),
    "sizes over a quota": put_message(SIZES | {"acme/b": 401}, max_size=900),
    "a multipart upload": multipart_message(size=10),
    "parts of an unknown upload": parts_message("x.0", 1),
}
AFTER_OTHERS: dict[str, tuple[dict[str, Any], Before]] = {
    "over a quota partly used": (
        grant_message(["acme/a", "acme/b"]),
        lambda _: [grant_message(["acme/x", "acme/y"])],
    ),
    "granted before": (grant_message(), lambda message: [message]),
    "refused before": (download_message(content_type="text/html"), lambda message: [message]),
    "a batch id with other content": (
        grant_message(),
        lambda message: [message | {"requested_by": "another"}],
    ),
    "a later chunk": (second_chunk(), lambda message: [message | {"chunk": 0}]),
    "a later chunk of a refused batch": (second_chunk(4), lambda message: [message | {"chunk": 0}]),
    "cancelled before it arrived": (grant_message(), lambda message: [cancellation(message)]),
    "cancelled after its first chunk": (
        second_chunk(),
        lambda message: [message | {"chunk": 0}, cancellation(message)],
    ),
}
CASES: dict[str, tuple[dict[str, Any], Before]] = {
    name: (message, lambda _: []) for name, message in NEW.items()
} | AFTER_OTHERS


@ON_SQLITE
@pytest.mark.parametrize(("message", "before"), CASES.values(), ids=CASES)
def test_an_explanation_equals_the_decision_that_follows(
    service: InProcessService,
    monkeypatch: pytest.MonkeyPatch,
    message: dict[str, Any],
    before: Before,
) -> None:
    message = message | {"batch": batch_id()}
    for earlier in before(message):
        service.issue(earlier)
    explanation = explain(service, message)
    started = {"UploadId": "u", "ResponseMetadata": {"RetryAttempts": 0}}
    client = SimpleNamespace(create_multipart_upload=lambda **_: started)
    monkeypatch.setattr(S3Clients, "client", lambda *_: client)
    outcome = service.issue(message)
    is_granted = any("url" in item for item in outcome["items"])
    assert (explanation.decision == "issue") == is_granted
    if not is_granted:
        refusal = outcome.get("refusal") or outcome["items"][0]
        codes = [verdict.refusal.code for verdict in explanation.rules if verdict.refusal]
        assert refusal["code"] in codes


def test_explaining_writes_nothing_and_returns_no_grants(
    service: InProcessService, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3Clients, "client", None)
    service.issue(second_chunk() | {"chunk": 0})
    before = all_rows(service)
    for message, _ in CASES.values():
        token = sign_message(message | {"ask": "explain"}, KEY, clock())
        response = service.respond(token)
        assert unseal_result(response.sent, KEY)["status"] == "explained"
        assert "X-Amz" not in repr(response.values)
    assert all_rows(service) == before


def test_an_explanation_names_the_signing_key(service: InProcessService, clock: Clock) -> None:
    message = grant_message(ask="explain")
    signed = unseal_result(service.respond(sign_message(message, KEY, clock())).sent, KEY)
    assert signed["rules"][0] == {"rule": "identity", "found": "signed by acme/main"}
    assert "trusts the queue" in service.issue(message)["rules"][0]["found"]
