"""Turns, head starts and sending again, with several requests at once."""

import pytest

from tests.support.fakes.pending_requests import REPLY, ManyMessages
from valetkey.delivery.in_flight import InFlight
from valetkey.delivery.pending_request import HEAD_START_SECONDS, PendingRequest, no_answer_error
from valetkey.delivery.progress import ReopenedBatchProgress
from valetkey.delivery.retransmit import FIRST_INTERVAL, PROBE_INTERVAL, RetransmitTimer
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import BatchState, Usage


def create_in_flight(window: int, *requests: PendingRequest) -> InFlight:
    in_flight = InFlight(RetransmitTimer(lambda: 0.0, window))
    for request in requests:
        in_flight.add(request)
    return in_flight


def send_messages(in_flight: InFlight, count: int) -> list[str]:
    """Send at most `count` new messages; return their task ids."""
    task_ids: list[str] = []
    for _ in range(count):
        in_flight.read_new(
            lambda request: request.next_message(in_flight.unread_limit(request, 9, 0.0)), 0.0
        )
        if (send := in_flight.next_new()) is not None:
            in_flight.record_send(send.message.task_id, 0.0)
            task_ids.append(send.message.task_id)
    return task_ids


def test_requests_take_turns() -> None:
    requests = ManyMessages("a", 3), ManyMessages("b", 1), ManyMessages("c", 2)
    in_flight = create_in_flight(10, *requests)
    assert send_messages(in_flight, 9) == ["a.0", "b.0", "c.0", "a.1", "c.1", "a.2"]


def test_room_in_the_window_goes_to_the_request_that_waits_longest() -> None:
    in_flight = create_in_flight(2, ManyMessages("a", 9))
    assert send_messages(in_flight, 3) == ["a.0", "a.1"]
    in_flight.add(ManyMessages("b", 1))
    assert in_flight.receive("a.0", REPLY, 0.0) == "accepted"
    assert in_flight.receive("a.1", REPLY, 0.0) == "accepted"
    assert send_messages(in_flight, 3) == ["a.2", "b.0"]


@pytest.mark.parametrize("end", ["given up", "answered"])
def test_a_stuck_message_that_has_ended_holds_back_nothing(end: str) -> None:
    stuck, others = ManyMessages("a", 1), ManyMessages("b", 2)
    in_flight = create_in_flight(9, stuck, others)
    (task_id,) = send_messages(in_flight, 1)
    in_flight.record_send(task_id, 0.0, is_stuck=True)
    if end == "given up":
        in_flight.drop(stuck)
    else:
        in_flight.receive(task_id, Usage(tenant="acme", quotas=[]), 0.0)
    assert send_messages(in_flight, 2) == ["b.0", "b.1"]


def test_a_message_that_is_given_up_while_others_are_sent_again_is_not_due() -> None:
    first, second, third = (ManyMessages(name, 1) for name in "abc")
    in_flight = create_in_flight(9, first, second, third)
    send_messages(in_flight, 3)
    in_flight.receive("c.0", REPLY, 0.0)
    sends = in_flight.resends(FIRST_INTERVAL)
    assert next(sends).message.task_id == "a.0"
    in_flight.drop(second)
    assert list(sends) == []


def test_the_first_messages_of_a_request_have_a_head_start() -> None:
    request = ManyMessages("a", 9)
    in_flight = create_in_flight(9, request)
    assert in_flight.next_due(0.0) == float("inf")
    send_messages(in_flight, 1)
    times = (0.0, HEAD_START_SECONDS / 2)
    assert [in_flight.unread_limit(request, 9, now) for now in times] == [4, 4]
    assert in_flight.unread_limit(request, 1, 0.0) == 1
    assert in_flight.next_due(0.0) == HEAD_START_SECONDS
    assert in_flight.unread_limit(request, 9, HEAD_START_SECONDS) == 9
    assert in_flight.next_due(HEAD_START_SECONDS) == FIRST_INTERVAL


def test_the_head_start_ends_with_the_first_reply_or_the_last_message() -> None:
    long, short = ManyMessages("a", 9), ManyMessages("b", 1)
    in_flight = create_in_flight(9, long, short)
    assert send_messages(in_flight, 3) == ["a.0", "b.0", "a.1"]
    in_flight.receive("a.1", REPLY, 0.0)
    assert in_flight.unread_limit(long, 9, 0.0) == 4
    assert in_flight.next_due(0.0) == HEAD_START_SECONDS
    in_flight.receive("a.0", REPLY, 0.0)
    assert in_flight.unread_limit(long, 9, 0.0) == 9
    assert in_flight.next_due(0.0) == FIRST_INTERVAL


def test_requests_that_wait_for_room_have_no_head_start() -> None:
    in_flight = create_in_flight(1, *(ManyMessages(name, 9) for name in "abc"))
    send_messages(in_flight, 1)
    assert in_flight.next_due(HEAD_START_SECONDS) == FIRST_INTERVAL


@pytest.mark.parametrize(
    ("is_waiting", "is_served", "cause"),
    [
        (None, True, "is a worker running?"),
        (True, True, "workers are busy"),
        (True, False, "no worker takes it from the queue"),
        (False, False, "a worker took it from the queue"),
    ],
)
def test_the_error_for_a_silent_service_says_where_the_message_is(
    *, is_waiting: bool | None, is_served: bool, cause: str
) -> None:
    request = ManyMessages("a", 1)
    error = no_answer_error(request, 1, is_waiting=is_waiting, is_served=is_served)
    assert cause in str(error)


def test_a_postponed_message_is_sent_again_soon() -> None:
    counts = {"total": 1, "chunk_size": 1, "decided": 0, "issued": 0, "refused": 0}
    state = BatchState.model_validate({"batch": "b", "kind": "download", "bucket": "b"} | counts)
    body = {"ask": "batch", "batch": "b", "chunk": 0}
    request = ReopenedBatchProgress(state, iter([PendingMessage("a.0", body, batch_state=state)]))
    in_flight = create_in_flight(1, request)
    assert send_messages(in_flight, 1) == ["a.0"]
    unknown = Refusal(code=Code.BATCH_UNKNOWN, field="chunk", message="not yet")
    reply = request.unanswered["a.0"].refused_outcome(unknown)
    assert in_flight.receive("a.0", reply, 1.0) == "unusable"
    assert in_flight.next_due(1.0) == 1.0 + PROBE_INTERVAL
    assert "has not decided" in str(no_answer_error(request, 1))
