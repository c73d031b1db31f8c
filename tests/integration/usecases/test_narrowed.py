"""What was granted by a policy that has become narrower since: asked for again, it is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Grant, Reissue
from tests.integration.conftest import Declare
from tests.support.builders import services
from tests.support.builders.messages import (
    POLICY,
    Clock,
    grant_message,
    put_message,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from worker.aws.clients import S3Clients
from worker.db.engine import read_transaction

Later = Callable[[], InProcessService]
WIDE = replace(POLICY, prefixes=("acme/", "secret/"), storage_classes=("GLACIER",))


@pytest.fixture
def service(declare: Declare, issuer: InProcessService) -> InProcessService:
    declare(tenant_config(policies={"demo": WIDE}))
    return issuer


@pytest.fixture
def later(engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Later:
    """Begin another process, which signs with another key."""

    def begin() -> InProcessService:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDLATER")
        return services.build_service(engine, S3Clients(), clock)

    return begin


def narrow(declare: Declare, **changes: Any) -> None:
    declare(tenant_config(policies={"demo": replace(WIDE, **changes)}))


def again(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Both ways to ask for what was granted: the same message, and its batch's id."""
    asking = {"v": 1, "ask": "batch", "tenant": "acme", "batch": raw["batch"], "chunk": 0}
    return [raw, asking]


def said(answer: dict[str, Any]) -> list[str]:
    """A word for each item: the code of its refusal, or the key id that signed it."""
    found = [item.get("code") or item["url"] for item in answer["items"]]
    return ["AKIDLATER" if "AKIDLATER" in word else word for word in found]


def test_a_key_that_is_behind_no_prefix_any_more_is_refused_and_the_others_are_signed(
    declare: Declare, service: InProcessService, later: Later
) -> None:
    raw = grant_message(["acme/a", "secret/b", "acme/c"])
    service.issue(raw)
    narrow(declare, prefixes=("acme/",))
    for asked in again(raw):
        answer = later().issue(asked)
        assert said(answer) == ["AKIDLATER", "key_outside_prefix", "AKIDLATER"]
        refused = answer["items"][1]
        assert (refused["key"], refused["field"]) == ("secret/b", "items[1].key")


@pytest.mark.parametrize(
    ("raw", "changes", "code"),
    [
        (upload_message(), {"kinds": ("download",)}, "kind_not_allowed"),
        (upload_message(), {"max_size": 499_999}, "size_too_large"),
        (upload_message(), {"content_types": ()}, "content_type_not_allowed"),
        (
            put_message({"acme/a": 1}, storage_class="GLACIER"),
            {"storage_classes": ()},
            "storage_class_not_allowed",
        ),
    ],
)
def test_terms_that_policy_would_refuse_by_now_are_refused(
    declare: Declare,
    service: InProcessService,
    later: Later,
    raw: dict[str, Any],
    changes: dict[str, Any],
    code: str,
) -> None:
    assert service.issue(raw)["status"] == "issued"
    narrow(declare, **changes)
    for asked in again(raw):
        answer = later().issue(asked)
        assert (answer["status"], answer["refusal"]["code"]) == ("refused", code)
        assert not any("url" in item for item in answer["items"])


def test_a_life_that_policy_would_not_give_by_now_is_cut(
    declare: Declare, service: InProcessService, later: Later
) -> None:
    raw = grant_message()  # for 300 seconds
    (first,) = service.issue(raw)["items"]
    narrow(declare, max_expires_in=60)
    for asked in again(raw):
        (item,) = later().issue(asked)["items"]
        assert (item["limited_by"], "X-Amz-Expires=60&" in item["url"]) == ("policy", True)
        assert item["expires_at"] < first["expires_at"]


def test_what_is_still_allowed_is_answered_as_it_was(
    declare: Declare, service: InProcessService
) -> None:
    raw = grant_message(["acme/a", "acme/b"])
    first = service.issue(raw)
    narrow(declare, prefixes=("acme/",), kinds=("download",), max_size=0)
    for asked in again(raw):
        assert service.issue(asked)["items"] == first["items"]


def test_the_log_keeps_the_place_of_what_was_not_signed_again(
    engine: Engine, declare: Declare, service: InProcessService, later: Later
) -> None:
    raw = grant_message(["acme/a", "secret/b", "acme/c"])
    service.issue(raw)
    narrow(declare, prefixes=("acme/",))
    later().issue(raw)
    with read_transaction(engine) as connection:
        before = connection.scalars(select(Grant.digest).order_by(Grant.number)).all()
        (after,) = connection.scalars(select(Reissue.digests)).all()
    digests = [after[start : start + 32] for start in range(0, len(after), 32)]
    pairs = zip(before, digests, strict=True)
    assert [old == new for old, new in pairs] == [False, True, False]
