"""Small requests that wait together are sent together, and as halves if their bundle fails."""

import json
from typing import Any

import pytest

from tests.support.fakes.delivery_engine import new_engine, next_send, resends, send_all, unsent
from tests.support.fakes.fake_service import grant_outcome
from tests.support.fakes.pending_requests import ManyMessages, small_request
from valetkey.delivery.engine import CompleteTask, DeliveryEngine, Fail
from valetkey.delivery.in_flight import Send
from valetkey.delivery.progress import BatchProgress
from valetkey.delivery.retransmit import FIRST_INTERVAL
from valetkey.errors import BrokerUnreachable
from valetkey.wire.replies import Grant
from valetkey.wire.unavailable import Unavailable


def task_id(request: BatchProgress) -> str:
    """Return the task id of a request of one message."""
    return f"{request.id}.0"


def send_bundle(engine: DeliveryEngine, *requests: BatchProgress) -> Send:
    """Send a bundle of requests that are in the engine."""
    send = unsent(engine)
    assert [message["batch"] for message in send.message.body["messages"]] == [
        request.id for request in requests
    ]
    engine.message_sent(send.message.task_id, 0.0)
    return send


def stored(result: Any, status: str = "SUCCESS") -> str:
    """Return a result as Celery stores it."""
    return json.dumps({"status": status, "result": result})


def sent_bundle(*keys: str) -> tuple[DeliveryEngine, list[BatchProgress], Send]:
    """Send requests for these keys in a bundle; return their engine, them, and the message."""
    requests = [small_request(key) for key in keys]
    engine = new_engine(*requests)
    return engine, requests, send_bundle(engine, *requests)


def answer(send: Send, *, without: BatchProgress | None = None) -> str:
    """Return the stored reply to a bundle, without that of one request."""
    messages = send.message.body["messages"]
    left = [message for message in messages if without is None or message["batch"] != without.id]
    return stored({"status": "bundled", "replies": [grant_outcome(message) for message in left]})


def granted(request: BatchProgress) -> bool:
    """Read the next result of a request; return false if there is none, or if it is no grant."""
    if not request.has_chunk():
        return False
    request.read_chunk()
    return isinstance(request.ready_results.popleft(), Grant)


def test_requests_that_wait_together_go_out_in_one_message_and_are_all_answered() -> None:
    engine, requests, send = sent_bundle("a", "b", "c")
    action = engine.result_received(send.message.task_id, answer(send), 1.0)
    assert action == CompleteTask(requests, [send.message.task_id])
    assert all(map(granted, requests))
    assert engine.is_idle


def test_a_request_that_waits_alone_goes_out_as_it_is() -> None:
    request = small_request()
    assert send_all(new_engine(request)) == [task_id(request)]


@pytest.mark.parametrize(
    "other",
    [
        ManyMessages("usage", 1),
        small_request("a", "b", chunk_size=1),
        small_request(*(str(number) for number in range(17))),
        small_request("k" * 4_096),
        small_request("\ud800"),
    ],
    ids=["usage", "two chunks", "many items", "long", "no UTF-8"],
)
def test_a_message_of_another_kind_or_size_is_sent_alone_after_those_before_it(other: Any) -> None:
    requests = small_request(), small_request()
    engine = new_engine(*requests, other, small_request())
    send_bundle(engine, *requests)
    alone = unsent(engine)
    assert alone.request is other
    assert "messages" not in alone.message.body


@pytest.mark.parametrize(
    ("requests", "sizes"),
    [(32, [32]), (40, [32, 8]), (100, [50, 50]), (200, [64, 64])],
)
def test_a_bundle_has_half_of_what_waits_but_32_to_64_messages_and_takes_one_place_in_the_window(
    requests: int, sizes: list[int]
) -> None:
    engine = new_engine(*(small_request() for _ in range(requests)), window=2)
    sent = []
    while (send := next_send(engine)) is not None:
        engine.message_sent(send.message.task_id, 0.0)
        sent.append(len(send.message.body["messages"]))
    assert sent == sizes


def test_as_many_go_out_together_as_were_answered_together() -> None:
    engine = new_engine(*(small_request() for _ in range(80)))
    sends = [unsent(engine), unsent(engine)]
    for send in sends:
        engine.message_sent(send.message.task_id, 0.0)
    engine.result_received(sends[0].message.task_id, answer(sends[0]), 1.0)
    more = [small_request() for _ in range(40)]
    for request in more:
        engine.add(request)
    send_bundle(engine, *more)


def test_a_bulk_batch_and_small_requests_take_turns() -> None:
    bulk, small = ManyMessages("bulk", 9), [small_request() for _ in range(40)]
    engine = new_engine(bulk, *small)
    names = ["bundle" if name.startswith("bundle") else name for name in send_all(engine)]
    assert names == ["bulk.0", "bundle", "bundle", "bulk.1", "bulk.2", "bulk.3"]


def test_a_request_that_is_given_up_is_not_sent_with_those_that_waited_with_it() -> None:
    requests = [small_request() for _ in range(3)]
    engine = new_engine(*requests)
    engine.read_new(lambda request: request.next_message(9), 0.0)
    engine.drop(requests[1])
    send = send_bundle(engine, requests[0], requests[2])
    engine.drop(requests[0])
    assert resends(engine, FIRST_INTERVAL) == [send.message.task_id]
    assert engine.drop(requests[2]) == [send.message.task_id]
    assert engine.is_idle
    assert engine.result_received(send.message.task_id, answer(send), 4.0) is None


def test_a_request_whose_batch_id_is_under_way_is_not_sent() -> None:
    request, other = small_request(), small_request()
    header = {"batch": request.id, "total": 1, "chunk_size": 600}
    message = request.next_message(1)
    engine = new_engine(other, *(BatchProgress(header, iter([message])) for _ in range(2)))
    assert [name.startswith("bundle") for name in send_all(engine)] == [True]


OUTAGE = BrokerUnreachable("no broker answers")


def test_a_message_without_a_reply_in_the_bundle_is_sent_alone_at_once() -> None:
    engine, requests, send = sent_bundle("a", "b", "c")
    engine.result_received(send.message.task_id, answer(send, without=requests[1]), 1.0)
    assert resends(engine, 1.0) == [task_id(requests[1])]
    assert [granted(request) for request in requests] == [True, False, True]
    engine.message_sent(task_id(requests[1]), 1.0)
    reply = stored(grant_outcome(requests[1].unanswered[task_id(requests[1])].body))
    action = engine.result_received(task_id(requests[1]), reply, 2.0)
    assert action == CompleteTask([requests[1]], [task_id(requests[1])])
    assert engine.is_idle


@pytest.mark.parametrize(
    "raw",
    [stored(None, "FAILURE"), "junk", "sealed", stored({"status": "later"}), stored({})],
    ids=["failed", "junk", "sealed for another key", "unreadable", "no reply"],
)
def test_after_an_unusable_answer_to_a_bundle_its_messages_are_sent_as_two_halves(raw: str) -> None:
    engine, requests, send = sent_bundle("a", "b", "c")
    action = engine.result_received(send.message.task_id, raw, 1.0)
    assert action == CompleteTask(requests, [send.message.task_id])
    assert engine.result_received(send.message.task_id, raw, 1.0) is None  # as looked up
    half, alone = engine.resends(1.0)
    assert [message["batch"] for message in half.message.body["messages"]] == [
        request.id for request in requests[:2]
    ]
    assert alone.message.task_id == task_id(requests[2])
    engine.result_received(half.message.task_id, answer(half), 2.0)
    assert [granted(request) for request in requests] == [True, True, False]


def test_a_grant_of_another_object_answers_no_message_of_a_bundle() -> None:
    engine, requests, send = sent_bundle("a", "b")
    other = answer(send).replace('"key": "b"', '"key": "c"')
    engine.result_received(send.message.task_id, other, 1.0)
    assert [granted(request) for request in requests] == [True, False]


def test_a_bundle_that_is_not_answered_in_time_is_sent_again_as_it_is() -> None:
    engine, requests, send = sent_bundle("a", "b")
    assert resends(engine, FIRST_INTERVAL - 0.1) == []
    (again,) = engine.resends(FIRST_INTERVAL)
    assert again.message == send.message
    engine.result_received(send.message.task_id, answer(send), FIRST_INTERVAL)
    assert all(map(granted, requests))
    assert engine.is_idle


def test_after_a_refusal_of_a_bundle_its_messages_are_sent_alone_and_later_ones_wait_together() -> (
    None
):
    engine, requests, send = sent_bundle("a", "b")
    refusal = {"code": "malformed", "field": "ask", "message": "no"}
    result = stored({"batch": "", "chunk": 0, "status": "refused", "refusal": refusal})
    engine.result_received(send.message.task_id, result, 1.0)
    assert resends(engine, 1.0) == [task_id(request) for request in requests]
    for request in (more := [small_request(), small_request()]):
        engine.add(request)
    send_bundle(engine, *more)


def test_a_hint_to_a_bundle_is_one_to_each_of_its_requests() -> None:
    engine, requests, send = sent_bundle("a", "b")
    hint = Unavailable("database", 4, 10**9)
    engine._decode = lambda _: hint  # its time is that of the wall clock
    engine.result_received(send.message.task_id, "", 1.0)
    outages = [request.service_outages.current for request in requests]
    assert [outage and outage.hint for outage in outages] == [hint, hint]


def test_an_unreachable_broker_fails_all_requests_of_the_first_bundle() -> None:
    requests = [small_request(), small_request()]
    engine = new_engine(*requests)
    failures = engine.send_failed(unsent(engine), OUTAGE, 0.0)
    assert failures == [Fail(request, OUTAGE) for request in requests]
    for request in requests:
        engine.drop(request)
    assert engine.is_idle


def test_a_bundle_that_could_not_be_sent_holds_back_new_messages_until_it_is_tried_again() -> None:
    engine = new_engine(ManyMessages("a", 1))
    send_all(engine)
    requests = [small_request(), small_request()]
    for request in requests:
        engine.add(request)
    send = unsent(engine)
    assert engine.send_failed(send, OUTAGE, 0.0) == []
    engine.add(small_request())
    engine._outages.clear()
    engine._stuck_task_id = send.message.task_id  # add() allows one more try
    assert next_send(engine) is None
    assert resends(engine, FIRST_INTERVAL) == [send.message.task_id, "a.0"]
