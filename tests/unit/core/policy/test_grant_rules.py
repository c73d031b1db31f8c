from dataclasses import replace
from typing import Any

import pytest

from tests.support.builders.messages import (
    DEMO,
    POLICY,
    download_message,
    grant_message,
    put_message,
    upload_message,
)
from valetkey.wire.messages import ChunkMessage
from worker.core.policy import grant_rules
from worker.core.policy.rules import PolicyContext, first_refusal
from worker.core.tenants.config import Policy

KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd"
LAX = replace(
    POLICY,
    content_types=("*/*", "image/*", "video/*"),
    inline=("image/png",),
    overrides=("cache_control", "content_language", "content_encoding", "expires"),
    storage_classes=("STANDARD_IA",),
    kms_keys=(KEY,),
    redirects=("https://app.example.com/",),
    overwrite=True,
)


def case(raw: dict[str, Any], policy: Policy = POLICY) -> PolicyContext:
    bucket = replace(DEMO, owner="111122223333" if policy is LAX else None)
    return PolicyContext(ChunkMessage.model_validate(raw).grant, bucket, policy)


def refused(raw: dict[str, Any], policy: Policy = POLICY) -> tuple[str, str] | None:
    refusal = first_refusal(grant_rules.RULES, case(raw, policy))
    return None if refusal is None else (refusal.code.value, refusal.field)


def put(**changes: Any) -> dict[str, Any]:
    return put_message({"acme/a": 1}, **changes)


PARTICULAR = [
    (download_message(inline=True, content_type="image/png"), "inline_not_allowed", "inline"),
    (download_message(cache_control="no-store"), "override_not_allowed", "cache_control"),
    (download_message(content_language="de"), "override_not_allowed", "content_language"),
    (download_message(content_encoding="gzip"), "override_not_allowed", "content_encoding"),
    (
        download_message(expires="Thu, 01 Dec 2026 16:00:00 GMT"),
        "override_not_allowed",
        "expires",
    ),
    (download_message(check_owner=True), "owner_unknown", "check_owner"),
    (put(check_owner=True), "owner_unknown", "check_owner"),
    (put(overwrite=True), "overwrite_not_allowed", "overwrite"),
    (put(storage_class="STANDARD_IA"), "storage_class_not_allowed", "storage_class"),
    (put(encryption={"algorithm": "aws:kms", "key": KEY}), "encryption_not_allowed", "encryption"),
    (
        upload_message(success_redirect="https://app.example.com/done"),
        "redirect_not_allowed",
        "success_redirect",
    ),
    (upload_message(content_type="video/*"), "content_type_not_allowed", "content_type"),
]


@pytest.mark.parametrize(("raw", "code", "field"), PARTICULAR)
def test_what_only_some_policies_allow_is_refused_by_others(
    raw: dict[str, Any], code: str, field: str
) -> None:
    assert refused(raw) == (code, f"grant.{field}")


@pytest.mark.parametrize("raw", [raw for raw, _, _ in PARTICULAR])
def test_what_only_some_policies_allow_is_allowed_by_those(raw: dict[str, Any]) -> None:
    assert refused(raw, LAX) is None


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (download_message(inline=True), "inline_not_allowed", "inline"),
        (download_message(inline=True, content_type="image/gif"), "inline_not_allowed", "inline"),
        (download_message(cache_control="naïve"), "override_not_allowed", "cache_control"),
        (download_message(content_type="text/html"), "content_type_not_allowed", "content_type"),
        (upload_message(content_type="image/*"), "content_type_not_allowed", "content_type"),
        (upload_message(content_type="text/*"), "content_type_not_allowed", "content_type"),
        (put(content_type="image/*"), "content_type_invalid", "content_type"),
        (put(encryption={"algorithm": "aws:kms"}), "encryption_not_allowed", "encryption"),
        (
            put(encryption={"algorithm": "aws:kms", "key": KEY + "0"}),
            "encryption_not_allowed",
            "encryption",
        ),
        (
            put(encryption={"algorithm": "AES256", "key": KEY}),
            "encryption_not_allowed",
            "encryption",
        ),
        (
            upload_message(success_redirect="https://app.example.com.evil/"),
            "redirect_not_allowed",
            "success_redirect",
        ),
        (put(tags={str(n): "x" for n in range(11)}), "tags_invalid", "tags"),
        (put(tags={"aws:x": "y"}), "tags_invalid", "tags"),
        (put(tags={"a": "<b>"}), "tags_invalid", "tags"),
        (put(tags={"a" * 129: "b"}), "tags_invalid", "tags"),
        (put(metadata={"a": "b  c"}), "metadata_invalid", "metadata.a"),
    ],
)
def test_what_no_policy_allows_is_refused(raw: dict[str, Any], code: str, field: str) -> None:
    assert refused(raw, LAX) == (code, f"grant.{field}")


def test_a_family_may_be_left_open_where_its_active_types_are_allowed_by_name() -> None:
    brave = replace(LAX, content_types=("image/*", "image/svg+xml"))
    assert refused(upload_message(content_type="image/*"), brave) is None


@pytest.mark.parametrize(("raw", "code", "field"), PARTICULAR)
def test_what_refuses_is_the_rule_named_as_the_field(
    raw: dict[str, Any], code: str, field: str
) -> None:
    refusing = {rule.name: rule.refused(case(raw)) for rule in grant_rules.RULES}
    assert {name: found.code.value for name, found in refusing.items() if found} == {
        f"grant.{field}": code
    }


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (download_message(), {"grant.kind": "download"}),
        (
            download_message(inline=True, content_type="image/png", filename="a.png"),
            {
                "grant.kind": "download",
                "grant.inline": "yes",
                "grant.content_type": "image/png",
                "grant.filename": "a.png",
            },
        ),
        (
            put(tags={"a": "b", "c": "d"}, encryption={"algorithm": "aws:kms", "key": KEY}),
            {
                "grant.kind": "put",
                "grant.content_type": "image/png",
                "grant.max_size": "500,000 bytes",
                "grant.tags": "a, c",
                "grant.encryption": "aws:kms",
            },
        ),
    ],
)
def test_rules_show_what_a_message_says_in_their_fields_and_nothing_where_it_says_nothing(
    raw: dict[str, Any], found: dict[str, str]
) -> None:
    shown = {rule.name: rule.found(case(raw)) for rule in grant_rules.RULES}
    assert {name: text for name, text in shown.items() if text} == found


def test_parts_are_of_the_kind_that_began_the_upload() -> None:
    raw = grant_message(grant={"kind": "parts", "bucket": "demo", "expires_in": 60, "of": "b.0"})
    assert refused(raw) is None
    assert refused(raw, replace(POLICY, kinds=("download",))) == ("kind_not_allowed", "grant.kind")
