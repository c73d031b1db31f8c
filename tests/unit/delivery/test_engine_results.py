"""Results that the delivery engine receives: events in, actions out."""

import json

import pytest

from tests.support.fakes.delivery_engine import new_engine, resends, send_all, stored_result
from tests.support.fakes.pending_requests import REPLY, ManyMessages
from valetkey.delivery.engine import (
    POLL_INTERVAL,
    ClearResult,
    CompleteTask,
    Fail,
)
from valetkey.delivery.retransmit import FIRST_INTERVAL
from valetkey.errors import SealedForAnotherKey, UnreadableReply

NEVER = float("inf")


def test_a_result_completes_its_message_once() -> None:
    request = ManyMessages("a", 1)
    engine = new_engine(request)
    send_all(engine)
    assert engine.result_received("a.0", stored_result(), 1.0) == CompleteTask([request], ["a.0"])
    assert request.reply == REPLY
    assert engine.is_idle
    assert engine.result_received("a.0", stored_result(), 2.0) is None


@pytest.mark.parametrize("raw", [stored_result(), "sealed", "junk"])
def test_the_result_of_an_unknown_task_is_ignored(raw: str) -> None:
    engine = new_engine(ManyMessages("a", 1))
    send_all(engine)
    assert engine.result_received("b.0", raw, 1.0) is None
    assert not engine.is_idle


@pytest.mark.parametrize("raw", ["junk", stored_result("FAILURE"), stored_result(tenant="globex")])
def test_an_unusable_result_is_cleared_and_its_message_sent_again_when_due(raw: str) -> None:
    request = ManyMessages("a", 1)
    engine = new_engine(request)
    send_all(engine)
    assert engine.result_received("a.0", raw, 1.0) == ClearResult("a.0")
    assert request.failures == 1
    assert resends(engine, FIRST_INTERVAL - 0.1) == []
    assert resends(engine, FIRST_INTERVAL) == ["a.0"]


LATER = json.dumps({"status": "SUCCESS", "result": {"status": "later"}})


@pytest.mark.parametrize(
    ("raw", "error"), [("sealed", SealedForAnotherKey), (LATER, UnreadableReply)]
)
def test_a_result_for_another_key_or_release_fails_its_request_at_once(
    raw: str, error: type[Exception]
) -> None:
    request, other = ManyMessages("a", 1), ManyMessages("b", 1)
    engine = new_engine(request, other)
    send_all(engine)
    fail = engine.result_received("a.0", raw, 1.0)
    assert isinstance(fail, Fail)
    assert (fail.request, fail.clear_task_id) == (request, "a.0")
    assert isinstance(fail.error, error)
    engine.drop(request)
    assert engine.requests == {other}


def test_results_are_looked_up_at_intervals_while_messages_are_unanswered() -> None:
    engine = new_engine(ManyMessages("a", 1))
    assert engine.listen_until(5.0) == NEVER
    send_all(engine, 5.0)
    assert engine.tasks_to_look_up(5.0) == ["a.0"]
    engine.lookup_done(6.0)
    assert engine.tasks_to_look_up(6.0 + POLL_INTERVAL / 2) is None
    assert engine.listen_until(6.0) == 6.0 + POLL_INTERVAL
    assert engine.tasks_to_look_up(6.0 + POLL_INTERVAL) == ["a.0"]
    engine.lookup_done(7.9)
    assert engine.listen_until(7.9) == 5.0 + FIRST_INTERVAL  # to send it again
    engine.result_received("a.0", stored_result(), 7.9)
    assert engine.listen_until(7.9) == NEVER
