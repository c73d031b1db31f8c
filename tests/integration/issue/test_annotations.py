"""Recipient, reason and the producer's reference of single items."""

from typing import Any

import pytest

from models import Annotation, Batch
from tests.support.builders.messages import batch_id, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.features import needs
from worker.rules.tenant_config import Quota

TEXTS = {"recipient": "ann@example.com", "reason": "case 4711", "ref": "mail-17"}
TEXT_COLUMNS = (Annotation.item_number, Annotation.recipient, Annotation.reason, Annotation.ref)


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    service.apply(tenant_config(Quota("grants", "day", 10)))
    return service


def message(*texts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a request for a download with each of these texts."""
    request = grant_message([f"acme/{number}" for number in range(len(texts))], **changes)
    request["items"] = [item | own for item, own in zip(request["items"], texts, strict=True)]
    return request


def results(service: InProcessService, request: dict[str, Any]) -> list[dict[str, Any]]:
    outcome = service.issue(request)
    assert outcome["status"] == "issued", outcome["refusal"]
    items: list[dict[str, Any]] = outcome["items"]
    return items


def test_the_texts_of_an_item_are_recorded_beside_it(service: InProcessService) -> None:
    results(service, message({}, TEXTS))
    assert service.rows(*TEXT_COLUMNS) == [(1, *TEXTS.values())]


def test_items_without_texts_have_no_row(service: InProcessService) -> None:
    results(service, message({}, {}))
    assert service.rows(Annotation) == []


def test_the_reference_comes_back_with_a_grant_and_with_a_refusal(
    service: InProcessService,
) -> None:
    request = message({"ref": "first"}, {"ref": "second"}, {})
    request["items"][1]["key"] = "globex/secret"
    grant, refused, other = results(service, request)
    assert (grant["ref"], refused["ref"], refused["code"]) == (
        "first",
        "second",
        "key_outside_prefix",
    )
    assert "ref" not in other


def test_a_message_that_arrives_again_gets_the_same_references(service: InProcessService) -> None:
    request = message(TEXTS, {}, {"ref": "b"})
    assert results(service, request) == results(service, request)
    assert len(service.rows(Annotation)) == 2


@pytest.mark.parametrize("field", TEXTS)
def test_other_texts_under_the_same_batch_id_are_a_conflict(
    service: InProcessService, field: str
) -> None:
    request = message(TEXTS)
    results(service, request)
    request["items"][0][field] = "another"
    assert service.refusal_code(request) == "batch_conflict"


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize("text", ["", "x" * 201, "two\nlines", 7])
def test_a_wrong_text_is_refused_by_its_field_and_nothing_is_recorded(
    service: InProcessService, field: str, text: object
) -> None:
    outcome = service.issue(message({}, {field: text}))
    assert outcome["refusal"]["code"] == "malformed"
    assert outcome["refusal"]["field"] == f"items[1].{field}"
    assert service.rows(Batch) == []


@needs("reissue")
def test_a_fresh_grant_keeps_the_texts_of_the_earlier_one(service: InProcessService) -> None:
    first = results(service, message(TEXTS))[0]
    (again,) = results(service, reissue(first["id"]))
    assert again["ref"] == "mail-17"
    assert service.rows(Batch.recipient, Batch.reason)[1] == ("ann@example.com", "case 4711")


@needs("reissue")
def test_a_fresh_grant_keeps_the_recipient_of_the_earlier_batch(service: InProcessService) -> None:
    first = results(service, message({}, recipient="bob"))[0]
    results(service, reissue(first["id"], reason="lost"))
    assert service.rows(Batch.recipient, Batch.reason)[1] == ("bob", "lost")


def reissue(of: str, **changes: Any) -> dict[str, Any]:
    header = {"v": 1, "ask": "reissue", "tenant": "acme", "batch": batch_id(), "of": of}
    return header | {"requested_by": "support"} | changes
