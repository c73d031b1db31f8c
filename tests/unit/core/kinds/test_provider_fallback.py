from dataclasses import replace
from typing import Any

import pytest

from tests.support.builders.messages import DEMO, download_message, put_message, upload_message
from valetkey.wire.messages import ChunkMessage, Item
from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import AnyTerms, Encryption, PolicyKind, Put, Upload
from worker.core.kinds.registry import adapt_terms_to_provider
from worker.core.policy.items import item_refusal
from worker.core.policy.request_rules import manifest_refusal
from worker.core.tenants.config import Policy

DEMO_WITHOUT_FORMS = replace(DEMO, provider="r2", post=False)
UPLOAD_AND_PUT: tuple[PolicyKind, ...] = ("upload", "put")


DEMO_WITHOUT_CONDITIONAL_WRITES = replace(DEMO, conditional_writes=False)


def policy_of(kinds: tuple[PolicyKind, ...]) -> Policy:
    return Policy("demo", ("acme/",), kinds)


def grant_terms(raw: dict[str, Any]) -> AnyTerms:
    return ChunkMessage.model_validate(raw).grant


@pytest.mark.parametrize("raw", [download_message(), upload_message()])
def test_a_provider_with_forms_gets_the_requested_terms(raw: dict[str, Any]) -> None:
    assert adapt_terms_to_provider(
        grant_terms(raw), DEMO, policy_of(UPLOAD_AND_PUT)
    ) == grant_terms(raw)


def test_a_provider_without_forms_gets_a_put_of_the_same_object() -> None:
    upload = grant_terms(upload_message(metadata={"a": "b"}, tags={"c": "d"}))
    put = adapt_terms_to_provider(upload, DEMO_WITHOUT_FORMS, policy_of(UPLOAD_AND_PUT))
    assert isinstance(put, Put)
    assert (put.max_size, put.content_type, put.metadata, put.tags, put.overwrite) == (
        500_000,
        "image/png",
        {"a": "b"},
        {"c": "d"},
        True,
    )


@pytest.mark.parametrize(
    ("size", "code"), [(99, "size_invalid"), (100, None), (500_001, "size_too_large")]
)
def test_a_put_instead_of_a_form_keeps_the_sizes_that_were_requested(
    size: int, code: str | None
) -> None:
    policy = policy_of(UPLOAD_AND_PUT)
    upload = grant_terms(upload_message(min_size=100))
    put = adapt_terms_to_provider(upload, DEMO_WITHOUT_FORMS, policy)
    assert isinstance(put, Put)
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
    conditional_writes: bool,  # noqa: FBT001 - pytest's own call
    overwrite: bool,  # noqa: FBT001 - pytest's own call
    code: str | None,
) -> None:
    policy = replace(policy_of(("download", "put")), overwrite=overwrite)
    bucket = replace(DEMO, conditional_writes=conditional_writes)
    refusal = manifest_refusal("acme/m.jsonl.gz", policy, bucket)
    assert (refusal and refusal.code) == code
