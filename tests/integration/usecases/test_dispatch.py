"""From what comes off the queue to an answer that only its asker reads."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Base, Cancellation, Chunk, Delivery, Usage
from tests.integration.conftest import Declare
from tests.support.builders.messages import Clock, grant_message
from tests.support.builders.services import InProcessService
from tests.support.crypto.tenants import (
    OURS,
    QUEUES,
    SPARE,
    STRANGER,
    config_with_keys,
    config_with_tenant_keys,
)
from tests.support.crypto.tokens import open_result, sign_message
from tests.support.crypto.tokens import tenant_keys as public
from valetkey.crypto.jose import WrongKey, recipient_key_id, unseal
from worker.core.tenants.config import Quota
from worker.db.engine import read_transaction


@pytest.fixture
def service(declare: Declare, issuer: InProcessService) -> InProcessService:
    declare(config_with_keys(OURS, SPARE, quotas=(Quota("grants", "day", 10),)))
    return issuer


def rows(engine: Engine, *tables: type[Base]) -> list[list[Any]]:
    with read_transaction(engine) as connection:
        return [list(connection.execute(select(table))) for table in tables]


def used(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        query = select(Usage.grants).where(Usage.window == "day")
        return connection.execute(query).scalar() or 0


def test_an_answer_is_sealed_to_the_key_that_asked_and_opens_with_no_other(
    service: InProcessService, clock: Clock
) -> None:
    answer = service.answer(sign_message(grant_message(), SPARE, clock()))
    assert isinstance(answer.wire, str)
    assert recipient_key_id(answer.wire) == SPARE.id
    assert open_result(answer.wire, SPARE) == answer.said
    assert answer.said["items"][0]["url"]
    for other in (OURS, STRANGER):
        with pytest.raises(WrongKey):
            unseal(answer.wire, other)


def test_a_refusal_of_what_a_key_asked_is_sealed_to_it_too(
    service: InProcessService, clock: Clock
) -> None:
    for asked in (grant_message(v=9), grant_message(deadline="2020-01-01T00:00:00Z")):
        said = open_result(service.answer(sign_message(asked, OURS, clock())).wire, OURS)
        assert (said["batch"], said["status"]) == (asked["batch"], "refused")
        assert [quota["used"] for quota in said["quotas"]] == [0]


def test_a_tenant_that_trusts_the_queue_may_sign_and_is_then_answered_sealed(
    service: InProcessService, clock: Clock
) -> None:
    asked = grant_message(["queueing/a"], tenant="queueing")
    sealed = service.answer(sign_message(asked, QUEUES, clock()))
    assert open_result(sealed.wire, QUEUES) == sealed.said
    plain = service.answer(asked)
    assert plain.wire == plain.said == sealed.said


def test_the_key_that_asked_is_in_the_log(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    service.answer(sign_message(grant_message(), SPARE, clock()))
    service.answer(grant_message(["queueing/a"], tenant="queueing"))
    (chunks,) = rows(engine, Chunk)
    assert {row.key for row in chunks} == {"spare", None}


def test_a_message_replayed_is_answered_to_its_asker_alone_and_charged_once(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    captured = sign_message(grant_message(), OURS, clock())
    first = service.answer(captured)
    clock.forward(minutes=4)
    second = service.answer(captured)
    assert open_result(second.wire, OURS) == open_result(first.wire, OURS)
    assert second.wire != first.wire
    assert used(engine) == 1


def test_a_message_replayed_after_a_day_is_refused(service: InProcessService, clock: Clock) -> None:
    captured = sign_message(grant_message(), OURS, clock())
    service.answer(captured)
    clock.forward(hours=24)
    assert isinstance(service.answer(captured).wire, str)
    clock.forward(seconds=1)
    answer = service.answer(captured)
    assert answer.wire == answer.said
    assert answer.said["refusal"]["code"] == "message_expired"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda _: None, "key_unknown"),
        (lambda key: replace(key, revoked=True), "key_revoked"),
        (lambda key: replace(key, expires=datetime(2026, 11, 24, tzinfo=UTC)), "key_expired"),
    ],
)
def test_what_a_key_signed_is_worth_nothing_once_the_key_is(
    declare: Declare, service: InProcessService, clock: Clock, change: Any, code: str
) -> None:
    captured = sign_message(grant_message(), OURS, clock())
    assert "url" in service.issue(captured)["items"][0]
    main = change(public(OURS)["main"])
    keys = public(SPARE) | ({} if main is None else {"main": main})
    declare(config_with_tenant_keys(keys))
    answer = service.answer(captured)
    assert answer.wire == answer.said
    assert (answer.said["refusal"]["code"], answer.said["items"]) == (code, [])


def test_rotation_leaves_no_gap(declare: Declare, service: InProcessService, clock: Clock) -> None:
    before, request = sign_message(grant_message(), OURS, clock()), grant_message()
    declare(config_with_keys(OURS, SPARE))
    assert service.issue(before)["status"] == "issued"
    first = service.answer(sign_message(request, OURS, clock()))
    again = service.answer(sign_message(request, SPARE, clock()))
    assert open_result(again.wire, SPARE)["items"] == open_result(first.wire, OURS)["items"]
    declare(config_with_keys(SPARE))
    assert service.issue(sign_message(grant_message(), SPARE, clock()))["status"] == "issued"


def test_how_quotas_stand_may_be_asked_again_and_again_and_changes_nothing(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    service.answer(sign_message(grant_message(), OURS, clock()))
    captured = sign_message({"v": 1, "ask": "usage", "tenant": "acme"}, OURS, clock())
    answers = [open_result(service.answer(captured).wire, OURS) for _ in range(3)]
    assert answers[0] == answers[2]
    assert (answers[0]["quotas"][0]["used"], used(engine)) == (1, 1)


def test_a_cancellation_replayed_releases_nothing_more(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    whole = grant_message(["acme/a", "acme/b"], chunk_size=1)
    service.answer(sign_message(whole | {"items": whole["items"][:1]}, OURS, clock()))
    ask = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "tests"}
    captured = sign_message(ask | {"batch": whole["batch"]}, OURS, clock())
    assert open_result(service.answer(captured).wire, OURS)["released"] == 1
    assert open_result(service.answer(captured).wire, OURS)["released"] == 0
    assert used(engine) == 1


def test_a_cancellation_of_another_tenants_batch_ends_nothing(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    theirs = grant_message(["queueing/a", "queueing/b"], tenant="queueing", chunk_size=1)
    service.issue(theirs | {"items": theirs["items"][:1]})
    ask = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "tests"}
    said = service.issue(sign_message(ask | {"batch": theirs["batch"]}, OURS, clock()))
    assert (said["issued"], said["released"]) == (0, 0)
    second = theirs | {"chunk": 1, "items": theirs["items"][1:]}
    assert service.issue(second)["status"] == "issued"
    (cancelled,) = rows(engine, Cancellation)
    assert [row.tenant for row in cancelled] == ["acme"]


def test_only_what_is_granted_or_refused_for_good_wakes_the_webhooks(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    def notifies(**changes: Any) -> bool:
        return service.answer(sign_message(grant_message(**changes), OURS, clock())).notifies

    assert notifies(callback="hook")
    assert not notifies()
    assert not notifies(callback="hook", ask="explain")
    assert not notifies(callback="nowhere")
    assert not service.answer(grant_message(callback="hook")).notifies
    assert len(rows(engine, Delivery)[0]) == 1
