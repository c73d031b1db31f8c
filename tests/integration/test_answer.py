"""From what comes off the queue to an answer that only its asker reads."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Base, Cancellation, Chunk, Delivery, Usage
from tests.integration.conftest import Declare
from tests.issuing import Answering
from tests.requests import Clock, message
from tests.signed import declared as public
from tests.signed import opened, token
from tests.speaking import OURS, QUEUES, SPARE, STRANGER, holding, known
from valetkey.sealing import NotItsKey, sealed_to, unseal
from worker.adapters.database import reading
from worker.core.tenancy import Quota


@pytest.fixture
def service(declare: Declare, issuer: Answering) -> Answering:
    declare(known(OURS, SPARE, quotas=(Quota("grants", "day", 10),)))
    return issuer


def rows(engine: Engine, *tables: type[Base]) -> list[list[Any]]:
    with reading(engine) as connection:
        return [list(connection.execute(select(table))) for table in tables]


def used(engine: Engine) -> int:
    with reading(engine) as connection:
        query = select(Usage.grants).where(Usage.window == "day")
        return connection.execute(query).scalar() or 0


def test_an_answer_is_sealed_to_the_key_that_asked_and_opens_with_no_other(
    service: Answering, clock: Clock
) -> None:
    answer = service.answer(token(message(), SPARE, clock()))
    assert isinstance(answer.wire, str)
    assert sealed_to(answer.wire) == SPARE.id
    assert opened(answer.wire, SPARE) == answer.said
    assert answer.said["items"][0]["url"]
    for other in (OURS, STRANGER):
        with pytest.raises(NotItsKey):
            unseal(answer.wire, other)


def test_a_refusal_of_what_a_key_asked_is_sealed_to_it_too(
    service: Answering, clock: Clock
) -> None:
    for asked in (message(v=9), message(deadline="2020-01-01T00:00:00Z")):
        said = opened(service.answer(token(asked, OURS, clock())).wire, OURS)
        assert (said["batch"], said["status"]) == (asked["batch"], "refused")
        assert [quota["used"] for quota in said["quotas"]] == [0]


def test_a_tenant_that_trusts_the_queue_may_sign_and_is_then_answered_sealed(
    service: Answering, clock: Clock
) -> None:
    asked = message(["queueing/a"], tenant="queueing")
    sealed = service.answer(token(asked, QUEUES, clock()))
    assert opened(sealed.wire, QUEUES) == sealed.said
    plain = service.answer(asked)
    assert plain.wire == plain.said == sealed.said


def test_the_key_that_asked_is_in_the_log(service: Answering, clock: Clock, engine: Engine) -> None:
    service.answer(token(message(), SPARE, clock()))
    service.answer(message(["queueing/a"], tenant="queueing"))
    (chunks,) = rows(engine, Chunk)
    assert {row.key for row in chunks} == {"spare", None}


def test_a_message_replayed_is_answered_to_its_asker_alone_and_charged_once(
    service: Answering, clock: Clock, engine: Engine
) -> None:
    captured = token(message(), OURS, clock())
    first = service.answer(captured)
    clock.forward(minutes=4)
    second = service.answer(captured)
    assert opened(second.wire, OURS) == opened(first.wire, OURS)
    assert second.wire != first.wire
    assert used(engine) == 1


def test_a_message_replayed_after_a_day_is_refused(service: Answering, clock: Clock) -> None:
    captured = token(message(), OURS, clock())
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
    declare: Declare, service: Answering, clock: Clock, change: Any, code: str
) -> None:
    captured = token(message(), OURS, clock())
    assert "url" in service.issue(captured)["items"][0]
    main = change(public(OURS)["main"])
    keys = public(SPARE) | ({} if main is None else {"main": main})
    declare(holding(keys))
    answer = service.answer(captured)
    assert answer.wire == answer.said
    assert (answer.said["refusal"]["code"], answer.said["items"]) == (code, [])


def test_rotation_leaves_no_gap(declare: Declare, service: Answering, clock: Clock) -> None:
    before, request = token(message(), OURS, clock()), message()
    declare(known(OURS, SPARE))
    assert service.issue(before)["status"] == "issued"
    first = service.answer(token(request, OURS, clock()))
    again = service.answer(token(request, SPARE, clock()))
    assert opened(again.wire, SPARE)["items"] == opened(first.wire, OURS)["items"]
    declare(known(SPARE))
    assert service.issue(token(message(), SPARE, clock()))["status"] == "issued"


def test_how_quotas_stand_may_be_asked_again_and_again_and_changes_nothing(
    service: Answering, clock: Clock, engine: Engine
) -> None:
    service.answer(token(message(), OURS, clock()))
    captured = token({"v": 1, "ask": "usage", "tenant": "acme"}, OURS, clock())
    answers = [opened(service.answer(captured).wire, OURS) for _ in range(3)]
    assert answers[0] == answers[2]
    assert (answers[0]["quotas"][0]["used"], used(engine)) == (1, 1)


def test_a_cancellation_replayed_releases_nothing_more(
    service: Answering, clock: Clock, engine: Engine
) -> None:
    whole = message(["acme/a", "acme/b"], chunk_size=1)
    service.answer(token(whole | {"items": whole["items"][:1]}, OURS, clock()))
    ask = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "tests"}
    captured = token(ask | {"batch": whole["batch"]}, OURS, clock())
    assert opened(service.answer(captured).wire, OURS)["released"] == 1
    assert opened(service.answer(captured).wire, OURS)["released"] == 0
    assert used(engine) == 1


def test_a_cancellation_of_another_tenants_batch_ends_nothing(
    service: Answering, clock: Clock, engine: Engine
) -> None:
    theirs = message(["queueing/a", "queueing/b"], tenant="queueing", chunk_size=1)
    service.issue(theirs | {"items": theirs["items"][:1]})
    ask = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "tests"}
    said = service.issue(token(ask | {"batch": theirs["batch"]}, OURS, clock()))
    assert (said["issued"], said["released"]) == (0, 0)
    second = theirs | {"chunk": 1, "items": theirs["items"][1:]}
    assert service.issue(second)["status"] == "issued"
    (cancelled,) = rows(engine, Cancellation)
    assert [row.tenant for row in cancelled] == ["acme"]


def test_only_what_is_granted_or_refused_for_good_wakes_the_webhooks(
    service: Answering, clock: Clock, engine: Engine
) -> None:
    def notifies(**changes: Any) -> bool:
        return service.answer(token(message(**changes), OURS, clock())).notifies

    assert notifies(callback="hook")
    assert not notifies()
    assert not notifies(callback="hook", ask="explain")
    assert not notifies(callback="nowhere")
    assert not service.answer(message(callback="hook")).notifies
    assert len(rows(engine, Delivery)[0]) == 1
