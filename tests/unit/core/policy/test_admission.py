from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.builders.messages import (
    POLICY,
    download_message,
    grant_message,
    tenant_config,
    upload_message,
)
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Refusal
from worker.core.policy.admission import RULES, Admission, admit, request_context
from worker.core.policy.request_rules import allowed_callbacks
from worker.core.tenants.config import Bucket, Endpoint, Policy, TenantConfig

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DOWNLOADS_ONLY = Policy("demo", ("acme/",), ("download",))


def decide(raw: dict[str, Any], known: TenantConfig | None = None) -> Admission | Refusal:
    return admit(ChunkMessage.model_validate(raw), known or tenant_config(), NOW)


def refused(raw: dict[str, Any], known: TenantConfig | None = None) -> tuple[str, str, Any]:
    refusal = decide(raw, known)
    assert isinstance(refusal, Refusal)
    return refusal.code.value, refusal.field, refusal.limit


def with_anothers() -> TenantConfig:
    """With a bucket profile that acme has no policy for."""
    known = tenant_config()
    return TenantConfig(
        {**known.buckets, "secret": Bucket("secret", "s", "eu-west-1")}, known.tenants
    )


@pytest.mark.parametrize(
    "raw", [grant_message(), upload_message(), upload_message(acl="public-read")]
)
def test_what_the_policy_allows_is_admitted_as_asked(raw: dict[str, Any]) -> None:
    admitted = decide(raw)
    assert isinstance(admitted, Admission)
    assert (admitted.expires_in, admitted.limited_by) == (300, "request")


REFUSED = [
    (grant_message(tenant="acme1"), "tenant_unknown", "tenant", None),
    (download_message(bucket="other"), "bucket_unknown", "grant.bucket", None),
    (download_message(bucket="secret"), "bucket_not_allowed", "grant.bucket", ["demo"]),
    (grant_message(total=100_001, items=[{"key": "a"}] * 600), "batch_too_large", "total", 100_000),
    (grant_message(callback="nowhere"), "callback_unknown", "callback", []),
    (download_message(expires_in=86_401), "expiry_too_long", "grant.expires_in", 86_400),
    (upload_message(max_size=1_000_001), "size_too_large", "grant.max_size", 1_000_000),
    (upload_message(acl="public-read-write"), "acl_not_allowed", "grant.acl", ["public-read"]),
    (upload_message(metadata={"X": "y"}), "metadata_invalid", "grant.metadata", None),
    (upload_message(metadata={"x-amz-acl": "y"}), "metadata_invalid", "grant.metadata", None),
    (upload_message(metadata={"grant-id": "y"}), "metadata_invalid", "grant.metadata", None),
    (upload_message(metadata={"a": "é"}), "metadata_invalid", "grant.metadata.a", None),
    (upload_message(metadata={"a": "y" * 2_048}), "metadata_invalid", "grant.metadata", 2_048),
    (download_message(filename="../x"), "filename_invalid", "grant.filename", 255),
    (download_message(filename='a".pdf'), "filename_invalid", "grant.filename", 255),
    (download_message(filename="gpj.\u202eexe"), "filename_invalid", "grant.filename", 255),
]


@pytest.mark.parametrize(("raw", "code", "field", "limit"), REFUSED)
def test_what_the_policy_does_not_allow_is_refused_with_its_limit(
    raw: dict[str, Any], code: str, field: str, limit: Any
) -> None:
    assert refused(raw, with_anothers()) == (code, field, limit)


@pytest.mark.parametrize("raw", [raw for raw, *_ in REFUSED])
def test_what_decides_is_the_first_rule_that_an_explanation_shows_as_refusing(
    raw: dict[str, Any],
) -> None:
    known = with_anothers()
    case = request_context(ChunkMessage.model_validate(raw), known, NOW)
    refusals = [case] if isinstance(case, Refusal) else [rule.refused(case) for rule in RULES]
    assert next(filter(None, refusals)) == decide(raw, known)


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/pdf"])
def test_a_content_type_that_is_not_allowed_by_name_is_refused(content_type: str) -> None:
    code, field, _ = refused(upload_message(content_type=content_type))
    assert (code, field) == ("content_type_not_allowed", "grant.content_type")


@pytest.mark.parametrize("content_type", ["image", "image/", "text/html; charset=utf-8", "a/b/c"])
def test_what_is_no_content_type_is_refused(content_type: str) -> None:
    assert refused(download_message(content_type=content_type))[0] == "content_type_invalid"


def test_a_kind_that_the_policy_does_not_list_is_refused() -> None:
    reading = tenant_config(policies={"demo": DOWNLOADS_ONLY})
    assert refused(upload_message(), reading) == ("kind_not_allowed", "grant.kind", ["download"])


def test_a_life_over_the_policy_is_cut_to_it_where_a_shorter_one_will_do() -> None:
    admitted = decide(download_message(expires_in=604_800, min_expires_in=3_600))
    assert isinstance(admitted, Admission)
    assert (admitted.expires_in, admitted.limited_by) == (86_400, "policy")


def test_a_shortest_life_over_the_policy_is_refused() -> None:
    raw = download_message(expires_in=604_800, min_expires_in=90_000)
    assert refused(raw) == ("expiry_too_long", "grant.min_expires_in", 86_400)


def test_a_request_past_its_deadline_is_refused() -> None:
    assert refused(grant_message(deadline="2026-11-24T12:00:00Z"))[0] == "deadline_passed"


HOOKS = {name: Endpoint(name, "https://example.com/", "env:HOOK") for name in ("hook", "other")}


@pytest.mark.parametrize("callbacks", [None, ("hook",), ("hook", "other", "undeclared")])
def test_a_declared_callback_that_the_policy_lets_hear_is_admitted(
    callbacks: tuple[str, ...] | None,
) -> None:
    known = tenant_config(endpoints=HOOKS, policies={"demo": replace(POLICY, callbacks=callbacks)})
    assert isinstance(decide(grant_message(callback="hook"), known), Admission)


@pytest.mark.parametrize("callbacks", [(), ("other",), ("undeclared",)])
def test_a_callback_that_the_policy_does_not_let_hear_is_refused_with_those_it_does(
    callbacks: tuple[str, ...],
) -> None:
    known = tenant_config(endpoints=HOOKS, policies={"demo": replace(POLICY, callbacks=callbacks)})
    allowed = [name for name in callbacks if name in HOOKS]
    assert refused(grant_message(callback="hook"), known) == (
        "callback_unknown",
        "callback",
        allowed,
    )
    assert isinstance(decide(grant_message(), known), Admission)


def test_no_endpoint_is_told_of_what_its_policy_does_not_let_it_hear() -> None:
    acme = tenant_config(endpoints=HOOKS, policies={"demo": replace(POLICY, callbacks=("other",))})
    assert set(allowed_callbacks(acme.tenants["acme"], "demo")) == {"other"}
    assert set(allowed_callbacks(acme.tenants["acme"], "elsewhere")) == {"hook", "other"}


@pytest.mark.parametrize(("own", "most"), [(None, 3), (2, 2), (4, 4)])
def test_the_policys_largest_batch_goes_before_the_tenants(own: int | None, most: int) -> None:
    known = tenant_config(max_batch=3, policies={"demo": replace(POLICY, max_batch=own)})
    keys = [f"acme/{number}" for number in range(most + 1)]
    assert isinstance(decide(grant_message(keys[:-1]), known), Admission)
    assert refused(grant_message(keys), known) == ("batch_too_large", "total", most)


def test_so_many_multipart_uploads_at_once_are_refused_whatever_policy_allows() -> None:
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 60, "max_size": 1}
    keys = [f"acme/{number}" for number in range(51)]
    assert refused(grant_message(keys, grant=terms)) == ("batch_too_large", "total", 50)
