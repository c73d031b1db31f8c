from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.builders.messages import (
    DEMO,
    POLICY,
    download_message,
    grant_message,
    multipart_message,
    tenant_config,
    upload_message,
)
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Refusal
from worker.rules.admission import (
    admit,
    allowed_callback_names,
    request_context,
    request_rules,
)
from worker.rules.policy_rules import RequestContext
from worker.rules.tenant_config import Bucket, TenantConfig, WebhookEndpoint

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DEADLINE = NOW.isoformat()


def admit_message(
    raw: dict[str, Any], config: TenantConfig | None = None
) -> RequestContext | Refusal:
    message, config = ChunkMessage.model_validate(raw), config or tenant_config()
    return admit(message, config.tenants.get(message.tenant), config, NOW)


def refusal_values(raw: dict[str, Any], config: TenantConfig | None = None) -> tuple[str, str, Any]:
    refusal = admit_message(raw, config)
    assert isinstance(refusal, Refusal)
    return str(refusal.code), refusal.field, refusal.limit


def admission_of(raw: dict[str, Any], config: TenantConfig | None = None) -> RequestContext:
    admission = admit_message(raw, config)
    assert isinstance(admission, RequestContext)
    return admission


SECRET = Bucket("secret", "s", "eu-west-1")  # a profile that acme has no policy for
WITH_SECRET = replace(tenant_config(), buckets={"demo": DEMO, "secret": SECRET})


@pytest.mark.parametrize(
    "raw", [grant_message(), upload_message(), upload_message(acl="public-read")]
)
def test_a_request_that_the_policy_allows_is_admitted_unchanged(raw: dict[str, Any]) -> None:
    admission = admission_of(raw)
    assert admission.terms == ChunkMessage.model_validate(raw).grant
    assert admission.validity == (NOW, 300, "request")


REFUSED = [
    (grant_message(tenant="acme1"), "tenant_unknown", "tenant", None),
    (download_message(bucket="other"), "bucket_not_allowed", "grant.bucket", ["demo"]),
    (download_message(bucket="secret"), "bucket_not_allowed", "grant.bucket", ["demo"]),
    (grant_message(total=100_001, items=[{"key": "a"}] * 600), "batch_too_large", "total", 100_000),
    (grant_message(callback="nowhere"), "callback_unknown", "callback", []),
    (upload_message() | {"notify": ["upload.stored"]}, "notify_not_allowed", "notify", []),
    (
        grant_message(notify=["upload.stored"]),
        *("notify_not_allowed", "notify", ["upload", "put", "multipart"]),
    ),
    (download_message(expires_in=86_401), "expiry_too_long", "grant.expires_in", 86_400),
    (
        download_message(expires_in=604_800, min_expires_in=90_000),
        *("expiry_too_long", "grant.min_expires_in", 86_400),
    ),
    (grant_message(deadline=DEADLINE), "deadline_passed", "deadline", DEADLINE),
    (upload_message(max_size=1_000_001), "size_too_large", "grant.max_size", 1_000_000),
    (upload_message(acl="public-read-write"), "acl_not_allowed", "grant.acl", ["public-read"]),
    (upload_message(metadata={"X": "y"}), "metadata_invalid", "grant.metadata", None),
    (upload_message(metadata={"x-amz-acl": "y"}), "metadata_invalid", "grant.metadata", None),
    (upload_message(metadata={"grant-id": "y"}), "metadata_invalid", "grant.metadata", None),
    (upload_message(metadata={"a": "é"}), "metadata_invalid", "grant.metadata.a", None),
    (upload_message(metadata={"a": "y" * 1_997}), "metadata_invalid", "grant.metadata", 1_997),
    (download_message(filename="x" * 237), "filename_invalid", "grant.filename", 236),
]


@pytest.mark.parametrize(("raw", "code", "field", "limit"), REFUSED)
def test_a_request_that_the_policy_does_not_allow_is_refused_with_field_and_limit(
    raw: dict[str, Any], code: str, field: str, limit: Any
) -> None:
    assert refusal_values(raw, WITH_SECRET) == (code, field, limit)


@pytest.mark.parametrize("raw", [raw for raw, *_ in REFUSED])
def test_the_refusal_is_that_of_the_first_rule_that_an_explanation_lists_as_refusing(
    raw: dict[str, Any],
) -> None:
    message = ChunkMessage.model_validate(raw)
    context = request_context(message, WITH_SECRET.tenants.get(message.tenant), WITH_SECRET, NOW)
    refusals: list[Refusal | None]
    if isinstance(context, Refusal):
        refusals = [context]
    else:
        refusals = [rule.check(context) for rule in request_rules(context)]
    assert next(filter(None, refusals)) == admit_message(raw, WITH_SECRET)


def test_a_bucket_profile_of_others_is_refused_exactly_as_one_that_does_not_exist() -> None:
    hidden, missing = download_message(bucket="secret"), download_message(bucket="other")
    assert admit_message(hidden, WITH_SECRET) == admit_message(missing, WITH_SECRET)


def test_a_validity_over_the_policys_maximum_is_shortened_if_min_expires_in_permits_it() -> None:
    admission = admission_of(download_message(expires_in=604_800, min_expires_in=3_600))
    assert admission.validity == (NOW, 86_400, "policy")


ENDPOINTS = {
    name: WebhookEndpoint(name, "https://example.com/", "env:HOOK") for name in ("hook", "other")
}


def config_with_callbacks(*names: str) -> TenantConfig:
    """Return a config whose endpoints are hook and other, and whose policy allows these names."""
    policy = replace(POLICY, callbacks=names)
    return tenant_config(endpoints=ENDPOINTS, policies={"demo": policy})


@pytest.mark.parametrize(
    "config",
    [
        tenant_config(endpoints=ENDPOINTS),
        config_with_callbacks("hook"),
        config_with_callbacks("hook", "other", "unconfigured"),
    ],
    ids=["the policy names none", "the policy names it", "and others"],
)
def test_a_configured_callback_that_the_policy_allows_is_admitted(config: TenantConfig) -> None:
    assert admission_of(grant_message(callback="hook"), config)


@pytest.mark.parametrize(
    ("callbacks", "allowed"), [((), []), (("other",), ["other"]), (("unconfigured",), [])]
)
def test_a_callback_that_the_policy_does_not_allow_is_refused_with_the_allowed_ones(
    callbacks: tuple[str, ...], allowed: list[str]
) -> None:
    config = config_with_callbacks(*callbacks)
    expected = ("callback_unknown", "callback", allowed)
    assert refusal_values(grant_message(callback="hook"), config) == expected
    assert admission_of(grant_message(), config)


def test_only_the_endpoints_that_the_policy_allows_are_called_back() -> None:
    acme = config_with_callbacks("other").tenants["acme"]
    assert set(allowed_callback_names(acme, "demo")) == {"other"}
    assert set(allowed_callback_names(acme, "elsewhere")) == {"hook", "other"}


@pytest.mark.parametrize(("policy_limit", "limit"), [(None, 3), (2, 2), (4, 4)])
def test_the_policys_max_batch_takes_precedence_over_the_tenants(
    policy_limit: int | None, limit: int
) -> None:
    config = tenant_config(max_batch=3, policies={"demo": replace(POLICY, max_batch=policy_limit)})
    keys = [f"acme/{number}" for number in range(limit + 1)]
    assert admission_of(grant_message(keys[:-1]), config)
    assert refusal_values(grant_message(keys), config) == ("batch_too_large", "total", limit)


def test_more_than_50_multipart_uploads_in_one_request_are_refused_under_any_policy() -> None:
    request = multipart_message([f"acme/{number}" for number in range(51)])
    assert refusal_values(request) == ("batch_too_large", "total", 50)
