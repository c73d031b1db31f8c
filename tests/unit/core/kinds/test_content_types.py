from dataclasses import replace
from typing import Any

import pytest

from tests.support.builders.messages import (
    DEMO,
    POLICY,
    download_message,
    put_message,
    upload_message,
)
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Refusal
from worker.core.grant_kinds import grant_kind
from worker.core.policy_rules import INERT_TYPES, PolicyContext, first_refusal

# What Chromium runs or loads as a script, or shows as a document with scripts: docs/files.md.
ACTIVE = (
    *("text/html", "text/xml", "text/xsl", "text/jscript", "text/javascript", "text/css"),
    *("text/anything", "text/anything+xml", "application/xhtml+xml", "application/xml"),
    *("application/rss+xml", "application/javascript", "application/unknown", "application/wasm"),
    *("application/x-shockwave-flash", "image/svg+xml", "image/anything+xml", "video/anything+xml"),
    *("multipart/x-mixed-replace", "message/rfc822", "unknown/unknown"),
)


def refusal_of(raw: dict[str, Any], *content_types: str) -> Refusal | None:
    policy = replace(POLICY, content_types=content_types)
    context = PolicyContext(ChunkMessage.model_validate(raw).grant, DEMO, policy)
    return first_refusal(grant_kind(context.terms).rules, context)


def wildcards(content_type: str) -> tuple[str, str]:
    return ("*/*", f"{content_type.partition('/')[0]}/*")


@pytest.mark.parametrize("content_type", ACTIVE)
def test_no_wildcard_includes_a_type_that_is_not_known_to_be_inert(content_type: str) -> None:
    raw = put_message({"acme/a": 1}, content_type=content_type)
    refusal = refusal_of(raw, *wildcards(content_type))
    assert refusal is not None
    assert (refusal.code, refusal.field) == ("content_type_not_allowed", "grant.content_type")
    assert refusal.limit == list(wildcards(content_type))


@pytest.mark.parametrize("content_type", ["text/html", "unknown/unknown"])
def test_a_policy_can_name_any_type(content_type: str) -> None:
    assert refusal_of(download_message(content_type=content_type), content_type) is None


@pytest.mark.parametrize(
    "content_type",
    ["image/png", "video/mp4", "text/plain", "text/csv", "application/pdf", "font/woff2"],
)
@pytest.mark.parametrize("wildcard", [0, 1])
def test_a_wildcard_includes_types_that_are_inert(content_type: str, wildcard: int) -> None:
    raw = download_message(content_type=content_type)
    assert refusal_of(raw, wildcards(content_type)[wildcard]) is None


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
    refusal = refusal_of(download_message(content_type=content_type), "*/*", "text/*", "text/html")
    assert refusal is not None
    assert (refusal.code, refusal.field) == ("content_type_invalid", "grant.content_type")


def test_a_wildcard_that_the_policy_has_is_refused_with_the_reason() -> None:
    refusal = refusal_of(download_message(content_type="image/*"), "image/*")
    assert refusal is not None
    assert "a wildcard is not a content type, also if the policy has it" in refusal.message


def test_a_family_with_scripts_is_refused_by_the_name_of_the_type_that_runs_them() -> None:
    refusal = refusal_of(upload_message(content_type="image/*"), "image/*")
    assert refusal is not None
    assert "from image/svg+xml, which browsers run" in refusal.message


@pytest.mark.parametrize(
    "family", ["*/*", "multipart/*", "message/*", "model/*", "chemical/*", "x/*"]
)
def test_a_form_leaves_no_client_a_choice_in_a_family_that_is_not_known(family: str) -> None:
    refusal = refusal_of(upload_message(content_type=family), family, "*/*")
    assert refusal is not None
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
    raw = upload_message(content_type=family)
    refusal = refusal_of(raw, family)
    assert refusal is not None
    assert refusal.limit == [family, active]
    assert refusal_of(raw, family, active) is None


@pytest.mark.parametrize("family", ["audio/*", "font/*", "video/*"])
def test_a_form_leaves_a_choice_within_a_family_that_the_policy_names(family: str) -> None:
    raw = upload_message(content_type=family)
    assert refusal_of(raw, family) is None
    assert refusal_of(raw, "*/*") is not None
