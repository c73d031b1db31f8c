from dataclasses import replace
from typing import Any

import pytest

from tests.support.builders.messages import DEMO, download_message, upload_message
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import AnyTerms, Put
from worker.core.policy.provider_fallback import terms_for_provider
from worker.core.tenants.config import Kind

FORMLESS = replace(DEMO, provider="r2", post=False)
BOTH: tuple[Kind, ...] = ("upload", "put")


def terms(raw: dict[str, Any]) -> AnyTerms:
    return ChunkMessage.model_validate(raw).grant


@pytest.mark.parametrize("raw", [download_message(), upload_message()])
def test_a_provider_that_takes_forms_is_offered_what_was_asked(raw: dict[str, Any]) -> None:
    assert terms_for_provider(terms(raw), DEMO, BOTH) == terms(raw)


def test_a_provider_without_forms_is_offered_a_put_of_the_same_object() -> None:
    asked = terms(upload_message(metadata={"a": "b"}, tags={"c": "d"}))
    put = terms_for_provider(asked, FORMLESS, BOTH)
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
        (upload_message(success_status=201), BOTH),
        (upload_message(success_redirect="https://app.example.com/"), BOTH),
        (upload_message(content_type="video/*"), BOTH),
    ],
)
def test_what_a_put_cannot_promise_or_the_policy_has_not_is_refused(
    raw: dict[str, Any], kinds: tuple[Kind, ...]
) -> None:
    refusal = terms_for_provider(terms(raw), FORMLESS, kinds)
    assert isinstance(refusal, Refusal)
    assert (refusal.code.value, refusal.field) == ("kind_not_supported", "grant.kind")
