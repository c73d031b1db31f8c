from dataclasses import replace
from typing import Any

import pytest

from tests.requests import DEMO, granting, uploading
from valetkey.messages import Message
from valetkey.refusals import Refusal
from valetkey.terms import AnyTerms, Put
from worker.core.offers import offered
from worker.core.tenancy import Kind

FORMLESS = replace(DEMO, provider="r2", post=False)
BOTH: tuple[Kind, ...] = ("upload", "put")


def terms(raw: dict[str, Any]) -> AnyTerms:
    return Message.model_validate(raw).grant


@pytest.mark.parametrize("raw", [granting(), uploading()])
def test_a_provider_that_takes_forms_is_offered_what_was_asked(raw: dict[str, Any]) -> None:
    assert offered(terms(raw), DEMO, BOTH) == terms(raw)


def test_a_provider_without_forms_is_offered_a_put_of_the_same_object() -> None:
    asked = terms(uploading(metadata={"a": "b"}, tags={"c": "d"}))
    put = offered(asked, FORMLESS, BOTH)
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
        (uploading(), ("upload",)),
        (uploading(success_status=201), BOTH),
        (uploading(success_redirect="https://app.example.com/"), BOTH),
        (uploading(content_type="video/*"), BOTH),
    ],
)
def test_what_a_put_cannot_promise_or_the_policy_has_not_is_refused(
    raw: dict[str, Any], kinds: tuple[Kind, ...]
) -> None:
    refusal = offered(terms(raw), FORMLESS, kinds)
    assert isinstance(refusal, Refusal)
    assert (refusal.code.value, refusal.field) == ("kind_not_supported", "grant.kind")
