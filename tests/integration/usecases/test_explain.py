"""An explanation equals the decision that would follow, and changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Base
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    batch_id,
    download_message,
    grant_message,
    put_message,
    tenant_config,
)
from tests.support.builders.services import InProcessService
from tests.support.crypto.tokens import sign_message, tenant_keys, unseal_result
from valetkey.crypto.keys import generate_key
from valetkey.wire.replies import Explanation
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Quota, TenantConfig
from worker.db.engine import read_transaction

KEY = generate_key("acme/main")
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
MULTIPART = {"kind": "multipart", "bucket": "demo", "expires_in": 60, "max_size": 1_000}
UNUSABLE = replace(DEMO, name="unusable", bucket="no bucket")
SHORT = replace(DEMO, name="short", max_expires_in=60)


def config_with_buckets(*quotas: Quota) -> TenantConfig:
    buckets = {bucket.name: bucket for bucket in (DEMO, UNUSABLE, SHORT)}
    policies = {name: replace(POLICY, bucket=name) for name in buckets}
    config = tenant_config(*quotas, policies=policies, keys=tenant_keys(KEY))
    return TenantConfig(buckets, config.tenants)


@pytest.fixture
def service(apply_config: ApplyConfig, service: InProcessService) -> InProcessService:
    quotas = Quota("grants", "day", 3), Quota("upload_bytes", "live", 1_000)
    apply_config(config_with_buckets(*quotas))
    return service


def all_rows(engine: Engine) -> dict[str, list[Any]]:
    with read_transaction(engine) as connection:
        tables = Base.metadata.sorted_tables
        return {str(table): list(connection.execute(select(table))) for table in tables}


def explain(service: InProcessService, message: dict[str, Any]) -> Explanation:
    return Explanation.model_validate(service.issue(message | {"ask": "explain"}))


def refusal_codes(explanation: Explanation) -> set[str]:
    return {str(verdict.refusal.code) for verdict in explanation.rules if verdict.refusal}


Prepare = Callable[[InProcessService, dict[str, Any]], Any]
"""Sends messages to the service before the one that is explained."""


def send_nothing(_service: InProcessService, _message: dict[str, Any]) -> None:
    pass


def send_same(service: InProcessService, message: dict[str, Any]) -> None:
    service.issue(message)


def send_other_content(service: InProcessService, message: dict[str, Any]) -> None:
    service.issue(message | {"requested_by": "another"})


def send_other_batch(service: InProcessService, _message: dict[str, Any]) -> None:
    service.issue(grant_message(["acme/x", "acme/y"]))


def send_first_chunk(service: InProcessService, message: dict[str, Any]) -> None:
    service.issue(message | {"chunk": 0})


def send_cancellation(service: InProcessService, message: dict[str, Any]) -> None:
    cancel = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "tests"}
    service.issue(cancel | {"batch": message["batch"]})


def send_first_chunk_and_cancellation(service: InProcessService, message: dict[str, Any]) -> None:
    send_first_chunk(service, message)
    send_cancellation(service, message)


def second_chunk(total: int = 3) -> dict[str, Any]:
    """Return the second chunk of a batch with one item in each chunk."""
    batch = grant_message([f"acme/{number}" for number in range(total)], chunk_size=1)
    return batch | {"chunk": 1, "items": batch["items"][1:2]}


CASES: list[tuple[str, dict[str, Any], Prepare]] = [
    ("an allowed request", grant_message(["acme/a", "acme/b"]), send_nothing),
    ("an item refused", grant_message(["acme/a", "globex/b"]), send_nothing),
    ("all items refused", grant_message(["globex/a"]), send_nothing),
    ("refused by policy", download_message(content_type="text/html"), send_nothing),
    ("shortened by policy", download_message(expires_in=604_800, min_expires_in=60), send_nothing),
    ("an unknown bucket", download_message(bucket="nowhere"), send_nothing),
    ("an unusable bucket", download_message(bucket="unusable"), send_nothing),
    (
        "a provider with a too short maximum",
        download_message(bucket="short", min_expires_in=61),
        send_nothing,
    ),
    ("shortened by the provider", download_message(bucket="short", expires_in=300), send_nothing),
    ("over a quota", grant_message([f"acme/{number}" for number in range(4)]), send_nothing),
    (
        "within a quota because an item is refused",
        grant_message(["acme/a"] * 3 + ["x/b"]),
        send_nothing,
    ),
    ("over a quota that is partly used", grant_message(["acme/a", "acme/b"]), send_other_batch),
    (
        "sizes within a quota",
        put_message({"acme/a": 600, "acme/b": 400}, max_size=900),
        send_nothing,
    ),
    ("sizes over a quota", put_message({"acme/a": 600, "acme/b": 401}, max_size=900), send_nothing),
    ("a multipart upload", grant_message(["acme/a"], grant=MULTIPART), send_nothing),
    (
        "parts of an unknown upload",
        grant_message(grant={**MULTIPART, "kind": "parts", "of": "x.0"}),
        send_nothing,
    ),
    ("granted before", grant_message(), send_same),
    ("refused before", download_message(content_type="text/html"), send_same),
    ("a batch id with other content", grant_message(), send_other_content),
    ("a later chunk", second_chunk(), send_first_chunk),
    ("a later chunk of a refused batch", second_chunk(4), send_first_chunk),
    ("cancelled before it arrived", grant_message(), send_cancellation),
    ("cancelled after its first chunk", second_chunk(), send_first_chunk_and_cancellation),
]


def completed(message: dict[str, Any]) -> dict[str, Any]:
    """Add the fields that items of multipart and parts need, and remove what parts refuse."""
    if message["grant"]["kind"] == "multipart":
        message["items"] = [{**item, "size": 10} for item in message["items"]]
    if message["grant"]["kind"] == "parts":
        message["grant"].pop("max_size", None)
        message["items"] = [{**item, "part": 1} for item in message["items"]]
    return message


@ON_SQLITE
@pytest.mark.parametrize(
    ("message", "prepare"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_an_explanation_equals_the_decision_that_follows(
    service: InProcessService,
    monkeypatch: pytest.MonkeyPatch,
    message: dict[str, Any],
    prepare: Prepare,
) -> None:
    message = completed(message | {"batch": batch_id()})
    prepare(service, message)
    explanation = explain(service, message)
    client = SimpleNamespace(
        create_multipart_upload=lambda **_: {
            "UploadId": "u",
            "ResponseMetadata": {"RetryAttempts": 0},
        }
    )
    monkeypatch.setattr(S3Clients, "client", lambda *_: client)
    outcome = service.issue(message)
    is_granted = any("url" in item for item in outcome["items"])
    assert (explanation.decision == "issue") == is_granted
    if not is_granted:
        refusal = outcome.get("refusal") or outcome["items"][0]
        assert refusal["code"] in refusal_codes(explanation)


def test_explaining_writes_nothing_and_returns_no_grants(
    service: InProcessService, engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3Clients, "client", None)
    service.issue(second_chunk() | {"chunk": 0})
    before = all_rows(engine)
    for _, message, _ in CASES:
        token = sign_message(completed(message) | {"ask": "explain"}, KEY, clock())
        response = service.respond(token)
        assert unseal_result(response.sent, KEY)["status"] == "explained"
        assert "X-Amz" not in repr(response.values)
    assert all_rows(engine) == before


def test_an_explanation_names_the_signing_key(service: InProcessService, clock: Clock) -> None:
    message = grant_message(ask="explain")
    signed = unseal_result(service.respond(sign_message(message, KEY, clock())).sent, KEY)
    assert signed["rules"][0] == {"rule": "identity", "found": "signed by acme/main"}
    assert "trusts the queue" in service.issue(message)["rules"][0]["found"]


def test_an_explained_message_can_be_granted_afterwards(
    service: InProcessService,
) -> None:
    message = grant_message()
    explain(service, message)
    assert service.issue(message)["status"] == "issued"
