from dataclasses import replace
from typing import Any

import pytest

from tests.support.builders.messages import DEMO, POLICY, grant_message, put_message
from tests.support.builders.messages import download_message as download
from tests.support.builders.messages import upload_message as upload
from valetkey.wire.messages import ChunkMessage
from worker.core.grant_kinds import grant_kind
from worker.core.policy_rules import PolicyContext, first_refusal
from worker.core.tenant_config import Policy

PAGE = "https://app.example.com"
KMS_KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd"
PERMISSIVE = replace(
    POLICY,
    content_types=("*/*", "image/*", "video/*"),
    inline=("image/png",),
    overrides=("cache_control", "content_language", "content_encoding", "expires"),
    storage_classes=("STANDARD_IA",),
    kms_keys=(KMS_KEY,),
    redirects=(f"{PAGE}/",),
    overwrite=True,
    plain=True,
)


def policy_context(raw: dict[str, Any], policy: Policy = POLICY) -> PolicyContext:
    bucket = replace(DEMO, owner="111122223333" if policy is PERMISSIVE else None)
    return PolicyContext(ChunkMessage.model_validate(raw).grant, bucket, policy)


def refusal_code_and_field(raw: dict[str, Any], policy: Policy = POLICY) -> tuple[str, str] | None:
    context = policy_context(raw, policy)
    refusal = first_refusal(grant_kind(context.terms).rules, context)
    return None if refusal is None else (str(refusal.code), refusal.field)


def put(**changes: Any) -> dict[str, Any]:
    return put_message({"acme/a": 1}, **changes)


KMS = {"algorithm": "aws:kms", "key": KMS_KEY}
POLICY_DEPENDENT = [
    (download(inline=True, content_type="image/png"), "inline_not_allowed", "inline"),
    (download(cache_control="no-store"), "override_not_allowed", "cache_control"),
    (download(content_language="de"), "override_not_allowed", "content_language"),
    (download(content_encoding="gzip"), "override_not_allowed", "content_encoding"),
    (download(expires="Tue, 01 Dec 2026 16:00:00 GMT"), "override_not_allowed", "expires"),
    (download(check_owner=True), "owner_unknown", "check_owner"),
    (put(check_owner=True), "owner_unknown", "check_owner"),
    (download(plain=True), "plain_not_allowed", "plain"),
    (put(overwrite=True), "overwrite_not_allowed", "overwrite"),
    (put(storage_class="STANDARD_IA"), "storage_class_not_allowed", "storage_class"),
    (put(encryption=KMS), "encryption_not_allowed", "encryption"),
    (upload(success_redirect=f"{PAGE}/done"), "redirect_not_allowed", "success_redirect"),
    (upload(content_type="video/*"), "content_type_not_allowed", "content_type"),
]


@pytest.mark.parametrize(("raw", "code", "field"), POLICY_DEPENDENT)
def test_terms_that_need_a_policys_permission_are_refused_without_it_by_the_rule_of_their_field(
    raw: dict[str, Any], code: str, field: str
) -> None:
    context = policy_context(raw)
    checked = {rule.name: rule.check(context) for rule in grant_kind(context.terms).rules}
    refusals = {name: (str(r.code), r.field) for name, r in checked.items() if r is not None}
    assert refusals == {f"grant.{field}": (code, f"grant.{field}")}


@pytest.mark.parametrize("raw", [raw for raw, _, _ in POLICY_DEPENDENT])
def test_terms_that_need_a_policys_permission_are_allowed_with_it(raw: dict[str, Any]) -> None:
    assert refusal_code_and_field(raw, PERMISSIVE) is None


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (download(inline=True), "inline_not_allowed", "inline"),
        (download(plain=True, filename="a.pdf"), "override_not_allowed", "filename"),
        (download(plain=True, content_type="image/png"), "override_not_allowed", "content_type"),
        (download(plain=True, inline=True), "override_not_allowed", "inline"),
        (download(plain=True, cache_control="no-store"), "override_not_allowed", "cache_control"),
        (download(expires="garbage"), "override_not_allowed", "expires"),
        (put(content_type="image/*"), "content_type_invalid", "content_type"),
        (put(encryption={"algorithm": "aws:kms"}), "encryption_not_allowed", "encryption"),
        (put(encryption=KMS | {"key": f"{KMS_KEY}0"}), "encryption_not_allowed", "encryption"),
        (put(encryption=KMS | {"algorithm": "AES256"}), "encryption_not_allowed", "encryption"),
        (upload(success_redirect=f"{PAGE}.evil/"), "redirect_not_allowed", "success_redirect"),
        (put(tags={str(n): "x" for n in range(11)}), "tags_invalid", "tags"),
        (put(tags={"aws:x": "y"}), "tags_invalid", "tags"),
        (put(tags={"a": "<b>"}), "tags_invalid", "tags"),
        (put(tags={"a" * 129: "b"}), "tags_invalid", "tags"),
        (put(metadata={"a": "b  c"}), "metadata_invalid", "metadata.a"),
    ],
)
def test_invalid_terms_are_refused_even_by_a_permissive_policy(
    raw: dict[str, Any], code: str, field: str
) -> None:
    assert refusal_code_and_field(raw, PERMISSIVE) == (code, f"grant.{field}")


def test_only_a_form_replaces_a_variable_in_metadata() -> None:
    metadata = {"note": "${filename}"}
    assert refusal_code_and_field(put(metadata=metadata)) is None
    refused = ("metadata_invalid", "grant.metadata.note")
    assert refusal_code_and_field(upload(metadata=metadata)) == refused


@pytest.mark.parametrize(
    ("raw", "descriptions"),
    [
        (download(), {"grant.kind": "download"}),
        (
            download(inline=True, content_type="image/png", filename="a.png"),
            {
                "grant.kind": "download",
                "grant.inline": "yes",
                "grant.content_type": "image/png",
                "grant.filename": "a.png",
            },
        ),
        (
            put(tags={"a": "b", "c": "d"}, encryption=KMS),
            {
                "grant.kind": "put",
                "grant.content_type": "image/png",
                "grant.max_size": "488.3 KiB (500,000 bytes)",
                "grant.tags": "a, c",
                "grant.encryption": "aws:kms",
            },
        ),
    ],
)
def test_rules_describe_the_fields_that_are_set_and_no_others(
    raw: dict[str, Any], descriptions: dict[str, str]
) -> None:
    context = policy_context(raw)
    values = {rule.name: rule.describe(context) for rule in grant_kind(context.terms).rules}
    assert {name: text for name, text in values.items() if text} == descriptions


def test_parts_need_the_permission_for_multipart() -> None:
    raw = grant_message(grant={"kind": "parts", "bucket": "demo", "expires_in": 60, "of": "b.0"})
    assert refusal_code_and_field(raw) is None
    downloads = replace(POLICY, kinds=("download",))
    assert refusal_code_and_field(raw, downloads) == ("kind_not_allowed", "grant.kind")


def test_metadata_may_fill_what_the_grant_id_leaves_of_storages_limit() -> None:
    longest = {"a": "x" * 996, "b": "y" * 999}
    grant_id = "0199a000-0000-7000-8000-000000000000.999999"
    used = sum(len(name) + len(value) for name, value in longest.items())
    assert used + len("grant-id") + len(grant_id) == 2_048
    assert refusal_code_and_field(upload(metadata=longest)) is None
    longer = longest | {"b": "y" * 1_000}
    refused = ("metadata_invalid", "grant.metadata")
    assert refusal_code_and_field(upload(metadata=longer)) == refused
