"""Storage that takes no forms: each form is issued as a PUT, charged at its size, and stays one."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from models import Use
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    about_batch,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from tests.support.uses.reports import stored
from worker.audit.grant_story import find_story
from worker.base.database_engine import read_transaction
from worker.rules.tenant_config import Policy
from worker.uses.use_recorder import record_uses

KEYS = ("acme/a.png", "acme/b.png")
SIZE, MAX_SIZE = 300, 1_000


def change_profile(service: InProcessService, *, post: bool, policy: Policy = POLICY) -> None:
    config = tenant_config(policies={"demo": policy})
    service.apply(replace(config, buckets={"demo": replace(DEMO, post=post)}))


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    change_profile(service, post=False)
    return service


def form_message() -> dict[str, Any]:
    """Return a request for two forms that name the sizes of their files."""
    items = [{"key": key, "size": SIZE} for key in KEYS]
    return upload_message(KEYS, max_size=MAX_SIZE) | {"items": items}


def repeated(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [message, about_batch(message["batch"], chunk=0)]


def charged_bytes(service: InProcessService) -> int:
    """Return the bytes of the day, which are those that the rows cost."""
    assert service.is_log_sound()
    return service.charged("day", "upload_bytes")


def test_a_put_for_a_form_is_charged_at_its_size(service: InProcessService) -> None:
    items = service.issue(form_message())["items"]
    assert [item["headers"]["content-length"] for item in items] == [str(SIZE)] * 2
    assert charged_bytes(service) == 2 * SIZE


@pytest.mark.parametrize("begins_with_forms", [True, False])
def test_each_chunk_is_charged_as_what_its_items_were_issued(
    service: InProcessService, *, begins_with_forms: bool
) -> None:
    first, second = split_chunks(form_message(), 1)
    change_profile(service, post=begins_with_forms)
    service.issue(first)
    change_profile(service, post=not begins_with_forms)
    service.issue(second)
    assert charged_bytes(service) == SIZE + MAX_SIZE


def test_the_story_of_a_put_for_a_form_has_its_charge(
    service: InProcessService, engine: Engine, clock: Clock
) -> None:
    grant = service.issue(form_message())["items"][0]["id"]
    with read_transaction(engine) as connection:
        story = find_story(connection, grant, clock())
    assert story["detail"] == {"kind": "put", "size": SIZE}
    assert story["quota"]["charged"] == {"grants": 1, "upload_bytes": SIZE}


def test_a_put_for_a_form_is_signed_again_as_the_same_put_where_storage_takes_forms_now(
    service: InProcessService,
) -> None:
    message = form_message()
    first = service.issue(message)
    change_profile(service, post=True)
    for repetition in repeated(message):
        assert service.issue(repetition)["items"] == first["items"]
    assert charged_bytes(service) == 2 * SIZE


def test_a_put_for_a_form_is_refused_once_the_policy_allows_no_put(
    service: InProcessService,
) -> None:
    message = form_message()
    service.issue(message)
    change_profile(service, post=True, policy=replace(POLICY, kinds=("upload",)))
    for repetition in repeated(message):
        assert service.refusal_code(repetition) == "kind_not_supported"


def test_a_form_that_is_signed_again_as_a_put_stays_charged_as_a_form(
    service: InProcessService,
) -> None:
    change_profile(service, post=True)
    message = form_message()
    service.issue(message)
    change_profile(service, post=False)
    for repetition in repeated(message):
        assert {item["method"] for item in service.issue(repetition)["items"]} == {"PUT"}
    assert charged_bytes(service) == 2 * MAX_SIZE


def test_an_object_of_another_size_than_that_of_a_put_for_a_form_is_mismatched(
    service: InProcessService, clock: Clock
) -> None:
    grant = service.issue(form_message())["items"][0]
    record_uses([stored(grant["id"], grant["key"], clock(), size=SIZE - 1)], service.context)
    assert service.rows(Use.verdict, Use.problem) == [
        ("mismatched", "size: 299 bytes, granted 300")
    ]
