from dataclasses import replace
from typing import Any, get_args

import pytest

from tests.support.builders.messages import (
    DEMO,
    POLICY,
    download_message,
    grant_message,
    put_message,
    upload_message,
)
from valetkey.wire.messages import ChunkMessage, Item
from valetkey.wire.terms import AnyTerms, Kind, PolicyKind
from worker.core.kinds.registry import ALL_S3_ACTIONS, KINDS, adapt_terms_to_provider, grant_kind

DEMO_WITHOUT_FORMS = replace(DEMO, provider="r2", post=False)
MULTIPART = {"kind": "multipart", "bucket": "demo", "expires_in": 60, "max_size": 9}
PARTS = {"kind": "parts", "bucket": "demo", "expires_in": 60, "of": "b.0"}
STORAGE_RULES = [
    "grant.max_size",
    "grant.acl",
    "grant.metadata",
    "grant.tags",
    "grant.storage_class",
    "grant.encryption",
]


def grant_terms(raw: dict[str, Any]) -> AnyTerms:
    return ChunkMessage.model_validate(raw).grant


def test_every_kind_of_the_wire_has_a_specification() -> None:
    assert list(KINDS) == list(get_args(Kind))


def test_every_kind_that_a_policy_can_allow_has_a_specification() -> None:
    assert KINDS.keys() - {*get_args(PolicyKind)} == {"parts"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_first_refused_unless_the_policy_allows_it(kind: str) -> None:
    assert KINDS[kind].rules[0].name == "grant.kind"


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("download", download_message()),
        ("upload", upload_message()),
        ("put", put_message({"acme/a": 1})),
        ("multipart", grant_message(grant=MULTIPART)),
        ("parts", grant_message(grant=PARTS)),
    ],
)
def test_terms_have_the_specification_of_their_kind(kind: str, raw: dict[str, Any]) -> None:
    terms = grant_terms(raw)
    assert grant_kind(terms) is KINDS[kind]
    assert grant_kind(terms).terms_class is type(terms)


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        (
            "download",
            [
                "grant.kind",
                "grant.check_owner",
                "grant.plain",
                "grant.filename",
                "grant.content_type",
                "grant.inline",
                "grant.cache_control",
                "grant.content_language",
                "grant.content_encoding",
                "grant.expires",
            ],
        ),
        (
            "upload",
            ["grant.kind", "grant.content_type", *STORAGE_RULES, "grant.success_redirect"],
        ),
        (
            "put",
            [
                "grant.kind",
                "grant.check_owner",
                "grant.content_type",
                *STORAGE_RULES,
                "grant.overwrite",
            ],
        ),
        ("multipart", ["grant.kind", "grant.content_type", *STORAGE_RULES, "grant.part_size"]),
        ("parts", ["grant.kind"]),
    ],
)
def test_the_rules_of_a_kind_apply_in_a_fixed_order(kind: str, rules: list[str]) -> None:
    assert [rule.name for rule in KINDS[kind].rules] == rules


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_is_named_after_a_field_of_the_terms(kind: str) -> None:
    names = {f"grant.{name}" for name in KINDS[kind].terms_class.model_fields}
    assert {rule.name for rule in KINDS[kind].rules} <= names


def test_every_field_of_an_item_belongs_to_at_least_one_kind() -> None:
    names = {name for kind in KINDS.values() for name in kind.item_checks}
    assert names == Item.model_fields.keys() - {"key"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_required_field_is_among_the_fields_that_items_of_its_kind_may_have(kind: str) -> None:
    required = KINDS[kind].required_field
    assert required is None or required.name in KINDS[kind].item_checks


def test_the_s3_actions_are_those_that_using_grants_requires() -> None:
    assert ALL_S3_ACTIONS == (
        "s3:AbortMultipartUpload",
        "s3:GetObject",
        "s3:GetObjectVersion",
        "s3:PutObject",
        "s3:PutObjectAcl",
        "s3:PutObjectTagging",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_s3_actions_contain_those_of_every_kind(kind: str) -> None:
    assert KINDS[kind].s3_actions
    assert KINDS[kind].s3_actions <= {*ALL_S3_ACTIONS}


def test_downloads_uploads_and_puts_can_have_a_manifest() -> None:
    assert [name for name, kind in KINDS.items() if kind.has_manifest] == [
        "download",
        "upload",
        "put",
    ]
    storing = [name for name, kind in KINDS.items() if kind.allows_manifest_upload]
    assert storing == ["upload", "put"]


@pytest.mark.parametrize(
    "raw",
    [
        download_message(),
        put_message({"acme/a": 1}),
        grant_message(grant=MULTIPART),
        grant_message(grant=PARTS),
    ],
)
def test_a_provider_without_forms_gets_the_requested_terms_of_other_kinds(
    raw: dict[str, Any],
) -> None:
    terms = grant_terms(raw)
    assert adapt_terms_to_provider(terms, DEMO_WITHOUT_FORMS, POLICY) is terms
