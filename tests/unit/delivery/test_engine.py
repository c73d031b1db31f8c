"""Sending by the delivery engine alone: events in, actions out, with no I/O and no clock."""

from tests.support.fakes.delivery_engine import (
    new_engine,
    next_send,
    resends,
    send_all,
    stored_result,
    unsent,
)
from tests.support.fakes.pending_requests import ManyMessages, small_request
from valetkey.delivery.retransmit import FIRST_INTERVAL, RETRY_INTERVAL
from valetkey.errors import BrokerUnreachable
from valetkey.wire.refusals import Code, Refusal

NO_LIMIT = float("inf")
OUTAGE = BrokerUnreachable("no broker answers")
REFUSAL = Refusal(code=Code.BATCH_CLOSED, field="batch", message="no more")


def test_a_later_failure_is_an_outage_until_the_message_is_sent() -> None:
    engine = new_engine(ManyMessages("a", 1), ManyMessages("b", 1), ManyMessages("c", 1))
    _, second = unsent(engine), unsent(engine)
    engine.message_sent("a.0", 0.0)
    assert engine.send_failed(second, OUTAGE, 1.0) == []
    assert engine.outage is OUTAGE
    assert next_send(engine) is None  # the stuck message is tried first
    assert resends(engine, 1.0 + RETRY_INTERVAL) == ["a.0", "b.0"]
    engine.message_sent("b.0", 1.0 + RETRY_INTERVAL)
    assert engine.outage is None
    assert send_all(engine) == ["c.0"]


def test_due_messages_are_sent_again_oldest_first_until_one_fails() -> None:
    engine = new_engine(*(ManyMessages(name, 1) for name in "abcd"))
    send_all(engine)
    engine.result_received("d.0", stored_result(), 0.0)  # the others were lost
    due = engine.resends(FIRST_INTERVAL)
    engine.message_sent(next(due).message.task_id, FIRST_INTERVAL)
    stuck = next(due)
    assert stuck.message.task_id == "b.0"
    engine.send_failed(stuck, OUTAGE, FIRST_INTERVAL)
    # c.0 is still due; a.0 and b.0 wait for their second interval.
    assert resends(engine, FIRST_INTERVAL) == ["c.0"]


def test_while_the_store_is_unreachable_nothing_new_is_sent() -> None:
    engine = new_engine(ManyMessages("a", 1), ManyMessages("b", 1))
    engine.message_sent(unsent(engine).message.task_id, 0.0)
    engine.store_failed(OUTAGE)
    assert engine.outage is OUTAGE
    assert next_send(engine) is None
    assert resends(engine, FIRST_INTERVAL) == ["a.0"]
    engine.message_sent("a.0", FIRST_INTERVAL)  # the broker alone does not end the outage
    assert next_send(engine) is None
    engine.store_reached()
    assert engine.outage is None
    assert send_all(engine) == ["b.0"]


def test_the_outage_that_began_first_is_reported() -> None:
    store_outage = BrokerUnreachable("no result store answers")
    engine = new_engine(ManyMessages("a", 1), ManyMessages("b", 1))
    engine.message_sent("other", 0.0)
    engine.store_failed(store_outage)
    engine.store_reached()
    engine.send_failed(unsent(engine), OUTAGE, 0.0)
    engine.store_failed(store_outage)
    assert engine.outage is OUTAGE
    engine.add(ManyMessages("c", 1))  # the caller tries again
    assert engine.outage is None


def test_a_request_that_is_given_up_is_sent_again_only_when_it_is_added_again() -> None:
    request = ManyMessages("a", 3)
    engine = new_engine(request)
    send_all(engine)
    assert engine.drop(request) == ["a.0", "a.1", "a.2"]
    assert engine.is_idle
    assert resends(engine, 100.0) == []
    assert engine.result_received("a.0", stored_result(), 1.0) is None
    engine.add(request)
    engine.add(request)
    assert send_all(engine) == ["a.0", "a.1", "a.2"]


def test_small_requests_that_are_resumed_are_sent_in_a_bundle_again() -> None:
    requests = small_request(), small_request()
    engine = new_engine(*requests)
    (bundle,) = send_all(engine)
    for request in requests:
        engine.drop(request)
    for request in requests:
        engine.add(request)
    assert send_all(engine) == [bundle]


def test_while_a_resumed_message_is_stuck_the_others_wait() -> None:
    request = ManyMessages("a", 3)
    engine = new_engine(request)
    send_all(engine)
    engine.drop(request)
    engine.add(request)
    engine.send_failed(unsent(engine), OUTAGE, 8.0)
    assert next_send(engine) is None
    assert resends(engine, 8.0 + FIRST_INTERVAL) == ["a.0"]
    engine.message_sent("a.0", 8.0 + FIRST_INTERVAL)
    assert send_all(engine) == ["a.1", "a.2"]


class ClosedRequest(ManyMessages):
    closing_refusal = REFUSAL


def test_a_message_of_a_closed_request_wakes_its_waiters_and_is_not_sent() -> None:
    request, other = ClosedRequest("a", 2), ManyMessages("b", 1)
    engine = new_engine(request, other)
    assert engine.read_new(lambda each: each.next_message(9), 0.0) == [request, request]
    assert send_all(engine) == ["b.0"]
    assert request.answered == ["a.0", "a.1"]
