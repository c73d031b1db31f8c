from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders.messages import (
    DEMO,
    POLICY,
    download_message,
    grant_message,
    multipart_message,
    parts_message,
    put_message,
    upload_message,
)
from valetkey.wire.messages import ChunkMessage, Item
from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import AnyTerms, Encryption, Kind, PolicyKind, Put, Upload
from worker.rules.admission import manifest_refusal
from worker.rules.annotations import ANNOTATION_FIELDS
from worker.rules.decisions import item_refusal
from worker.rules.grant_kinds import (
    ALL_S3_ACTIONS,
    KINDS,
    adapt_terms_to_provider,
    issued_cost,
    reserved_cost,
)
from worker.rules.quota_rules import NO_COST, Cost
from worker.rules.tenant_config import Policy

DEMO_WITHOUT_FORMS = replace(DEMO, provider="r2", post=False)
STORAGE_RULES = "max_size acl metadata tags storage_class encryption"
HEADERS = "cache_control content_language content_encoding expires"


def grant_terms(raw: dict[str, Any]) -> AnyTerms:
    return ChunkMessage.model_validate(raw).grant


def test_every_kind_of_the_wire_and_of_policies_has_a_specification() -> None:
    assert list(KINDS) == list(get_args(Kind))
    assert KINDS.keys() - {*get_args(PolicyKind)} == {"parts"}


REQUESTS = {
    "download": download_message(),
    "upload": upload_message(),
    "put": put_message({"acme/a": 1}),
    "multipart": multipart_message(),
    "parts": parts_message("b.0", 1),
}


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        ("download", f"kind check_owner plain filename content_type inline {HEADERS}"),
        ("upload", f"kind content_type {STORAGE_RULES} success_redirect"),
        ("put", f"kind check_owner content_type {STORAGE_RULES} overwrite"),
        ("multipart", f"kind content_type {STORAGE_RULES} part_size"),
        ("parts", "kind"),
    ],
)
def test_the_rules_of_a_kind_apply_in_a_fixed_order(kind: str, rules: str) -> None:
    names = [rule.name.removeprefix("grant.") for rule in KINDS[kind].rules]
    assert names == rules.split()


def test_every_field_of_an_item_belongs_to_at_least_one_kind() -> None:
    names = {name for kind in KINDS.values() for name in kind.item_checks}
    assert names == Item.model_fields.keys() - {"key", *ANNOTATION_FIELDS}


def test_the_s3_actions_are_those_that_using_grants_of_every_kind_requires() -> None:
    assert ALL_S3_ACTIONS == (
        "s3:AbortMultipartUpload",
        "s3:GetObject",
        "s3:GetObjectVersion",
        "s3:PutObject",
        "s3:PutObjectAcl",
        "s3:PutObjectTagging",
    )
    assert all(kind.s3_actions for kind in KINDS.values())
    assert frozenset().union(*(kind.s3_actions for kind in KINDS.values())) <= {*ALL_S3_ACTIONS}


@pytest.mark.parametrize("kind", [kind for kind in REQUESTS if kind != "upload"])
def test_a_provider_without_forms_gets_the_requested_terms_of_other_kinds(kind: str) -> None:
    terms = grant_terms(REQUESTS[kind])
    assert adapt_terms_to_provider(terms, DEMO_WITHOUT_FORMS, POLICY) is terms


PUT_OF_30 = put_message({"acme/a": 30, "acme/b": 0}, max_size=500)


@pytest.mark.parametrize(
    ("raw", "reserved", "issued"),
    [
        pytest.param(download_message(), Cost(3, 3, 0), Cost(1, 1, 0), id="a download grant"),
        pytest.param(
            upload_message(max_size=500), Cost(3, 0, 1_500), Cost(1, 0, 500), id="its max_size"
        ),
        pytest.param(PUT_OF_30, Cost(3, 0, 1_500), Cost(2, 0, 30), id="its exact size"),
        pytest.param(REQUESTS["parts"], NO_COST, NO_COST, id="nothing, as the upload was charged"),
    ],
)
def test_a_grant_costs(raw: dict[str, Any], reserved: Cost, issued: Cost) -> None:
    message = ChunkMessage.model_validate(raw)
    assert reserved_cost(message.grant, 3) == reserved
    assert issued_cost(message.grant, message.items) == issued


@given(st.lists(st.integers(0, 500), min_size=1, max_size=20), st.data())
def test_issued_items_never_cost_more_than_was_reserved_for_them(
    sizes: list[int], data: st.DataObject
) -> None:
    sizes_by_key = {f"acme/{number}": size for number, size in enumerate(sizes)}
    for raw in (
        grant_message(list(sizes_by_key)),
        upload_message(list(sizes_by_key)),
        put_message(sizes_by_key, max_size=500),
    ):
        message = ChunkMessage.model_validate(raw)
        issued = [item for item in message.items if data.draw(st.booleans())]
        reserved = reserved_cost(message.grant, len(sizes))
        assert min(reserved.minus(issued_cost(message.grant, issued))) >= 0


UPLOAD_AND_PUT: tuple[PolicyKind, ...] = ("upload", "put")
DEMO_WITHOUT_CONDITIONAL_WRITES = replace(DEMO, conditional_writes=False)


def policy_of(kinds: tuple[PolicyKind, ...]) -> Policy:
    return Policy("demo", ("acme/",), kinds)


def test_a_put_instead_of_a_form_keeps_the_sizes_that_were_requested() -> None:
    policy = policy_of(UPLOAD_AND_PUT)
    upload = grant_terms(upload_message(min_size=100))
    put = adapt_terms_to_provider(upload, DEMO_WITHOUT_FORMS, policy)
    assert isinstance(put, Put)
    for size, code in ((99, "size_invalid"), (100, None), (500_001, "size_too_large")):
        refusal = item_refusal(Item(key="acme/a", size=size), put, policy, "items[0]")
        assert (refusal and refusal.code) == code


def test_a_put_instead_of_a_form_has_every_term_of_the_form_that_is_not_refused() -> None:
    upload = Upload(
        bucket="demo",
        expires_in=60,
        min_expires_in=30,
        content_type="image/png",
        acl="public-read",
        metadata={"a": "b"},
        tags={"c": "d"},
        storage_class="STANDARD_IA",
        encryption=Encryption(algorithm="AES256"),
        max_size=9,
        min_size=1,
    )
    put = adapt_terms_to_provider(upload, DEMO_WITHOUT_FORMS, policy_of(UPLOAD_AND_PUT))
    assert isinstance(put, Put)
    refused = {"success_status", "success_redirect"}
    set_terms = upload.model_dump(exclude={"kind", *refused})
    assert upload.model_fields_set == set_terms.keys()
    assert set_terms.items() <= put.model_dump().items()
    assert put.overwrite


@pytest.mark.parametrize(
    ("raw", "kinds"),
    [
        (upload_message(), ("upload",)),
        (upload_message(success_status=201), UPLOAD_AND_PUT),
        (upload_message(success_redirect="https://app.example.com/"), UPLOAD_AND_PUT),
        (upload_message(content_type="video/*"), UPLOAD_AND_PUT),
    ],
)
def test_a_form_is_refused_if_a_put_cannot_replace_it_or_the_policy_allows_no_put(
    raw: dict[str, Any], kinds: tuple[PolicyKind, ...]
) -> None:
    refusal = adapt_terms_to_provider(grant_terms(raw), DEMO_WITHOUT_FORMS, policy_of(kinds))
    assert isinstance(refusal, Refusal)
    assert (str(refusal.code), refusal.field) == ("kind_not_supported", "grant.kind")


def test_a_put_that_must_not_replace_an_object_is_refused_where_storage_would_replace_it() -> None:
    policy = replace(policy_of(("put",)), overwrite=True)
    once, always = (grant_terms(put_message({"acme/a": 1}, overwrite=o)) for o in (False, True))
    refusal = adapt_terms_to_provider(once, DEMO_WITHOUT_CONDITIONAL_WRITES, policy)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.field) == ("kind_not_supported", "grant.overwrite")
    assert adapt_terms_to_provider(always, DEMO_WITHOUT_CONDITIONAL_WRITES, policy) == always
    assert adapt_terms_to_provider(once, DEMO, policy) == once


@pytest.mark.parametrize(
    ("conditional_writes", "overwrite", "code"),
    [(False, False, "manifest_not_allowed"), (False, True, None), (True, False, None)],
)
def test_a_manifest_that_must_not_replace_an_object_is_refused_where_storage_would_replace_it(
    code: str | None, *, conditional_writes: bool, overwrite: bool
) -> None:
    policy = replace(policy_of(("download", "put")), overwrite=overwrite)
    bucket = replace(DEMO, conditional_writes=conditional_writes)
    refusal = manifest_refusal("acme/m.jsonl.gz", policy, bucket)
    assert (refusal and refusal.code) == code
