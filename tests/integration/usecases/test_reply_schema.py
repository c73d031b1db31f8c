"""Real replies of the service, validated against the schema of the replies."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from sqlalchemy import Engine

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
from worker.broker.discards import _refusal_values
from worker.core.contract.schemas import reply_schema
from worker.core.tenants.config import Bucket, Quota, TenantConfig
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage

PART_SIZE = 5 * 1024**2
BUCKET = "replies"

Ask = Callable[[Any], dict[str, Any]]


@pytest.fixture(scope="module")
def s3(seaweed: Storage) -> Iterator[S3Clients]:
    create_buckets(seaweed.client(), {BUCKET})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
        yield S3Clients(seaweed.endpoint)


@pytest.fixture
def service(
    engine: Engine, s3: S3Clients, clock: Clock, apply_config: ApplyConfig
) -> InProcessService:
    clock.time = datetime.now(UTC)  # storage checks the time at which an upload is started
    policies = {"demo": replace(POLICY, max_size=3 * PART_SIZE)}
    quotas = (Quota("grants", "day", 50, warn_at=1), Quota("upload_bytes", "live", 10**9))
    config = tenant_config(*quotas, policies=policies)
    apply_config(
        TenantConfig({"demo": Bucket("demo", BUCKET, "us-east-1", "path")}, config.tenants)
    )
    return services.build_service(engine, s3, clock)


@pytest.fixture
def ask(service: InProcessService) -> Ask:
    """A function that returns the service's reply to a message, after it was validated."""
    validator = Draft202012Validator(reply_schema())

    def ask_service(message: Any) -> dict[str, Any]:
        reply = service.issue(message)
        validator.validate(reply)
        return reply

    return ask_service


def about_batch(ask: str, message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"v": 1, "ask": ask, "tenant": "acme", "batch": message["batch"], **fields}


def multipart_message() -> dict[str, Any]:
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "part_size": PART_SIZE}
    request = grant_message(["acme/film.mp4"], grant=terms | {"max_size": 2 * PART_SIZE})
    return request | {"items": [{"key": "acme/film.mp4", "size": 2 * PART_SIZE}]}


@pytest.mark.parametrize(
    "message",
    [
        grant_message(["acme/a", "globex/b"]),
        upload_message(["acme/a", "acme/"]),
        put_message({"acme/a": 5, "acme/b": 600_000}),
    ],
    ids=["download", "upload", "put"],
)
def test_outcomes_of_each_kind_match_the_schema(ask: Ask, message: dict[str, Any]) -> None:
    outcome = ask(message)
    assert ["url" in item for item in outcome["items"]] == [True, False]
    assert len(outcome["quotas"]) == 2


def test_a_multipart_upload_and_its_parts_match_the_schema(ask: Ask) -> None:
    (upload,) = ask(multipart_message())["items"]
    assert upload["multipart"]["part_count"] == 2
    terms = {"kind": "parts", "bucket": "demo", "expires_in": 600, "of": upload["id"]}
    parts = grant_message([upload["key"]] * 2, grant=terms)
    items = [{"key": upload["key"], "part": number} for number in (2, 3)]
    granted, refused = ask(parts | {"items": items})["items"]
    assert (granted["part"], refused["code"]) == (2, "part_invalid")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (grant_message(v=2), "version_unknown"),
        (grant_message(surprise=1), "unknown_field"),
        (grant_message(deadline="2020-01-01T00:00:00Z"), "deadline_passed"),
        (grant_message([f"acme/{n}" for n in range(51)]), "quota_exceeded"),
        (grant_message(tenant="globex"), "signature_required"),
        (grant_message(tenant="Acme!"), "malformed"),
        ("no.such.token", "token_invalid"),
        (None, "malformed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_of_a_whole_message_matches_the_schema(ask: Ask, message: Any, code: str) -> None:
    reply = ask(message)
    assert (reply["status"], reply["refusal"]["code"]) == ("refused", code)


def test_the_refusal_of_a_discarded_message_matches_the_schema() -> None:
    Draft202012Validator(reply_schema()).validate(_refusal_values("body"))


def test_the_states_and_chunks_of_a_batch_match_the_schema(ask: Ask) -> None:
    first, second = split_chunks(grant_message(["acme/a", "acme/b", "acme/c"]), 2)
    ask(first)
    assert ask(about_batch("batch", first))["decided"] == 1
    assert len(ask(about_batch("batch", first, chunk=0))["items"]) == 2
    assert ask(about_batch("batch", first, chunk=1))["refusal"]["code"] == "batch_unknown"
    cancelled = ask(about_batch("cancel", first, requested_by="ann"))
    assert (cancelled["issued"], cancelled["released"]) == (2, 1)
    assert ask(second)["refusal"]["code"] == "batch_closed"
    assert ask(about_batch("batch", first))["cancelled"]


def test_the_state_of_a_batch_with_a_manifest_matches_the_schema(ask: Ask) -> None:
    message = grant_message(["acme/a", "globex/b"], manifest="acme/results.gz")
    outcome = ask(message)
    assert (outcome["issued"], outcome["refused"], outcome["items"]) == (1, 1, [])
    assert ask(about_batch("batch", message))["manifest"]["state"] == "pending"


def test_a_refused_batch_that_is_reopened_matches_the_schema(ask: Ask) -> None:
    message = grant_message(["acme/a"], deadline="2020-01-01T00:00:00Z")
    ask(message)
    (item,) = ask(about_batch("batch", message, chunk=0))["items"]
    assert (item["key"], item["code"]) == ("acme/a", "deadline_passed")


def test_the_usage_and_an_explanation_match_the_schema(ask: Ask) -> None:
    usage = ask({"v": 1, "ask": "usage", "tenant": "acme"})
    assert [quota["window"] for quota in usage["quotas"]] == ["day", "live"]
    explanation = ask(grant_message(["globex/b"], ask="explain"))
    assert explanation["decision"] == "refuse"
    assert [rule for rule in explanation["rules"] if "refusal" in rule]
