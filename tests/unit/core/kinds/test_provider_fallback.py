from dataclasses import replace
from typing import Any

import pytest

from tests.support.builders.messages import DEMO, download_message, upload_message
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import AnyTerms, PolicyKind, Put
from worker.core.kinds.registry import adapt_terms_to_provider
from worker.core.tenants.config import Policy

DEMO_WITHOUT_FORMS = replace(DEMO, provider="r2", post=False)
UPLOAD_AND_PUT: tuple[PolicyKind, ...] = ("upload", "put")


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
