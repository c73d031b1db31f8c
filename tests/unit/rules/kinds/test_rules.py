from dataclasses import replace
from typing import Any

import pytest

from tests.support.builders.messages import DEMO, POLICY, parts_message, put_message
from tests.support.builders.messages import download_message as download
from tests.support.builders.messages import upload_message as upload
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Refusal
from worker.rules.grant_kinds import grant_kind
from worker.rules.policy_rules import INERT_TYPES, PolicyContext, first_refusal
from worker.rules.tenant_config import Policy

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


def refusal_of(raw: dict[str, Any], policy: Policy = POLICY) -> Refusal | None:
    context = policy_context(raw, policy)
    return first_refusal(grant_kind(context.terms).rules, context)


def refusal_code_and_field(raw: dict[str, Any], policy: Policy = POLICY) -> tuple[str, str] | None:
    refusal = refusal_of(raw, policy)
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
    assert refusal_code_and_field(parts_message("b.0", 1)) is None
    downloads = replace(POLICY, kinds=("download",))
    refused = ("kind_not_allowed", "grant.kind")
    assert refusal_code_and_field(parts_message("b.0", 1), downloads) == refused


def test_metadata_may_fill_what_the_grant_id_leaves_of_storages_limit() -> None:
    longest = {"a": "x" * 996, "b": "y" * 999}
    grant_id = "0199a000-0000-7000-8000-000000000000.999999"
    used = sum(len(name) + len(value) for name, value in longest.items())
    assert used + len("grant-id") + len(grant_id) == 2_048
    assert refusal_code_and_field(upload(metadata=longest)) is None
    longer = longest | {"b": "y" * 1_000}
    refused = ("metadata_invalid", "grant.metadata")
    assert refusal_code_and_field(upload(metadata=longer)) == refused


# What Chromium runs or loads as a script, or shows as a document with scripts:
# docs/appendix/file-names.md.
ACTIVE = (
    *("text/html", "text/xml", "text/xsl", "text/jscript", "text/javascript", "text/css"),
    *("text/anything", "text/anything+xml", "application/xhtml+xml", "application/xml"),
    *("application/rss+xml", "application/javascript", "application/unknown", "application/wasm"),
    *("application/x-shockwave-flash", "image/svg+xml", "image/anything+xml", "video/anything+xml"),
    *("multipart/x-mixed-replace", "message/rfc822", "unknown/unknown"),
)


def allows(raw: dict[str, Any], *content_types: str) -> bool:
    """Tell whether a policy with these content types allows a request."""
    return refusal_of(raw, replace(POLICY, content_types=content_types)) is None


def type_refusal(raw: dict[str, Any], *content_types: str) -> Refusal:
    """Return the refusal by a policy with these content types."""
    refusal = refusal_of(raw, replace(POLICY, content_types=content_types))
    assert refusal is not None
    assert refusal.field == "grant.content_type"
    return refusal


def wildcards(content_type: str) -> tuple[str, str]:
    return ("*/*", f"{content_type.partition('/')[0]}/*")


@pytest.mark.parametrize("content_type", ACTIVE)
def test_no_wildcard_includes_a_type_that_is_not_known_to_be_inert(content_type: str) -> None:
    refusal = type_refusal(put(content_type=content_type), *wildcards(content_type))
    assert refusal.code == "content_type_not_allowed"
    assert refusal.limit == list(wildcards(content_type))


@pytest.mark.parametrize("content_type", ["text/html", "unknown/unknown"])
def test_a_policy_can_name_any_type(content_type: str) -> None:
    assert allows(download(content_type=content_type), content_type)


@pytest.mark.parametrize(
    "content_type",
    ["image/png", "video/mp4", "text/plain", "text/csv", "application/pdf", "font/woff2"],
)
def test_each_wildcard_includes_types_that_are_inert(content_type: str) -> None:
    for wildcard in wildcards(content_type):
        assert allows(download(content_type=content_type), wildcard)


def test_no_inert_type_is_an_active_one() -> None:
    assert INERT_TYPES.isdisjoint(ACTIVE)
    assert not [name for name in INERT_TYPES if name.endswith("+xml")]


@pytest.mark.parametrize(
    "content_type",
    [
        *("text/html;charset=utf-8", "text/plain,text/html", "TEXT/HTML", "text/html "),
        *("text/ht\u006d\u0301l", "text/\uff48tml", "text", "*/*", "image/*", ""),
    ],
)
def test_only_a_bare_type_in_lower_case_is_a_content_type(content_type: str) -> None:
    refusal = type_refusal(download(content_type=content_type), "*/*", "text/*", "text/html")
    assert refusal.code == "content_type_invalid"


def test_the_reason_for_refusing_a_wildcard_of_the_policy_is_told() -> None:
    no_type = type_refusal(download(content_type="image/*"), "image/*").message
    assert "a wildcard is not a content type, also if the policy has it" in no_type
    scripts = type_refusal(upload(content_type="image/*"), "image/*").message
    assert "from image/svg+xml, which browsers run" in scripts


@pytest.mark.parametrize(
    "family", ["*/*", "multipart/*", "message/*", "model/*", "chemical/*", "x/*"]
)
def test_a_form_leaves_no_client_a_choice_in_a_family_that_is_not_known(family: str) -> None:
    refusal = type_refusal(upload(content_type=family), family, "*/*")
    assert refusal.code == "content_type_not_allowed"
    assert "video/*" in list(refusal.limit or ())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "active"),
    [
        ("image/*", "image/svg+xml"),
        ("text/*", "text/html"),
        ("application/*", "application/xhtml+xml"),
    ],
)
def test_a_form_leaves_a_choice_that_includes_scripts_only_if_the_policy_names_one(
    family: str, active: str
) -> None:
    raw = upload(content_type=family)
    assert type_refusal(raw, family).limit == [family, active]
    assert allows(raw, family, active)


@pytest.mark.parametrize("family", ["audio/*", "font/*", "video/*"])
def test_a_form_leaves_a_choice_within_a_family_that_the_policy_names(family: str) -> None:
    raw = upload(content_type=family)
    assert (allows(raw, family), allows(raw, "*/*")) == (True, False)
