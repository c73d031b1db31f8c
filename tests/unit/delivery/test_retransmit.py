from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from valetkey.delivery.retransmit import (
    FIRST_INTERVAL,
    MAX_INTERVAL,
    PROBE_INTERVAL,
    RETRY_INTERVAL,
    RetransmitTimer,
)

WINDOW = 4
QUEUE = "valetkey"
jitters = st.floats(0, 1, exclude_max=True)


class TimerMachine(RuleBasedStateMachine):
    """A timer, a clock, and a record of what happened to each message."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.jitter = 0.0
        self.timer = RetransmitTimer(lambda: self.jitter, window=WINDOW)
        self.send_times: dict[str, float] = {}
        self.removed: set[str] = set()

    @rule(jitter=jitters)
    def change_jitter(self, jitter: float) -> None:
        self.jitter = jitter

    @precondition(lambda self: self.timer.has_room)
    @rule()
    def send_new_message(self) -> None:
        self._send(f"batch.{len(self.send_times)}")

    @rule(seconds=st.floats(0, 100))
    def advance_clock(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def resend_due_messages(self) -> None:
        for task_id in self.timer.due(self.now):
            assert task_id not in self.removed
            assert self.now > self.send_times[task_id]
            self._send(task_id)
        assert self.timer.next_due() > self.now

    @precondition(lambda self: self.send_times)
    @rule(data=st.data())
    def receive_reply_perhaps_twice(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.send_times)))
        self.timer.record_result(task_id, self.now)
        self.timer.remove(task_id)
        self.removed.add(task_id)

    @precondition(lambda self: self.send_times)
    @rule(data=st.data())
    def postpone_message(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.send_times)))
        self.timer.postpone(task_id, self.now)
        self.send_times[task_id] = self.now

    @invariant()
    def no_more_than_a_window_is_unanswered(self) -> None:
        assert len(self.timer.unanswered) <= WINDOW
        assert self.timer.has_room == (len(self.timer.unanswered) < WINDOW)

    @invariant()
    def a_message_is_unanswered_until_it_is_removed(self) -> None:
        assert set(self.timer.unanswered) == self.send_times.keys() - self.removed

    @invariant()
    def every_unanswered_message_is_due_at_some_time(self) -> None:
        assert not self.timer.unanswered or self.timer.next_due() <= self.now + 1.5 * MAX_INTERVAL

    def _send(self, task_id: str) -> None:
        self.timer.record_send(task_id, QUEUE, self.now)
        self.send_times[task_id] = self.now


TestTimer = TimerMachine.TestCase


@given(st.lists(jitters, min_size=2, max_size=20))
def test_intervals_between_sends_grow_to_a_limit(chances: list[float]) -> None:
    timer = RetransmitTimer(iter(chances).__next__)
    times = [0.0]
    for _ in chances:
        timer.record_send("chunk", QUEUE, times[-1])
        times.append(timer.next_due())
        assert timer.due(times[-1]) == ["chunk"]
    intervals = [later - earlier for earlier, later in pairwise(times)]
    for interval, next_interval in pairwise(intervals):
        assert next_interval > interval or interval >= MAX_INTERVAL
    assert max(intervals) <= 1.5 * MAX_INTERVAL + 1e-9  # the clock rounds


def test_jitter_lengthens_an_interval_by_half_at_most() -> None:
    timer = RetransmitTimer(iter([0.0, 0.5, 1.0]).__next__)
    intervals = []
    for task_id in ("a", "b", "c"):
        timer.record_send(task_id, QUEUE, 0)
        intervals.append(timer.next_due() / FIRST_INTERVAL)
        timer.remove(task_id)
    assert intervals == [1, 1.25, 1.5]


def test_a_postponed_message_is_sent_soon_and_then_at_the_first_interval() -> None:
    timer = RetransmitTimer(lambda: 0.0)
    for _ in range(9):
        timer.record_send("chunk", QUEUE, 0.0)
    timer.postpone("chunk", 100.0)
    assert timer.next_due() == 100.0 + PROBE_INTERVAL
    timer.record_send("chunk", QUEUE, 200.0)
    assert timer.next_due() == 200.0 + FIRST_INTERVAL


def test_a_message_whose_copies_were_all_given_up_is_sent_again_at_a_steady_interval() -> None:
    timer = RetransmitTimer(lambda: 0.0)
    for now in (0.0, 3.0):
        timer.record_send("a", QUEUE, now)
    timer.record_given_up("a", 31.0)
    assert timer.next_due() == 3.0 + 2 * FIRST_INTERVAL  # for the other copy
    for now in (40.0, 80.0, 120.0):
        timer.record_given_up("a", now)
        assert timer.next_due() == now + RETRY_INTERVAL
        timer.record_send("a", QUEUE, now + RETRY_INTERVAL)
        assert timer.next_due() == now + RETRY_INTERVAL + FIRST_INTERVAL


def test_a_message_that_the_broker_does_not_take_is_tried_at_a_steady_interval() -> None:
    timer = RetransmitTimer(lambda: 0.0)
    for now in (0.0, 10.0, 100.0):
        timer.record_failed_send("a", QUEUE, now)
        assert timer.next_due() == now + RETRY_INTERVAL


def timer_of(*messages: str) -> RetransmitTimer:
    """Return a timer of messages that were sent at 0, each named by its queue and a number."""
    timer = RetransmitTimer(lambda: 0.0)
    for task_id in messages:
        timer.record_send(task_id, task_id[0], 0.0)
    return timer


def test_of_messages_that_wait_in_a_queue_only_the_last_three_are_sent_again() -> None:
    timer = timer_of("a1", "a2", "a3", "a4", "a5", "b1")
    assert timer.due(FIRST_INTERVAL) == ["a3", "a4", "a5", "b1"]
    timer.record_send("a3", "a", FIRST_INTERVAL)
    assert timer.due(2 * FIRST_INTERVAL) == ["a4", "a5", "b1"]
    assert timer.due(3 * FIRST_INTERVAL) == ["a4", "a5", "b1", "a3"]


LAST = ("a7", "a8", "a9")


def test_a_message_is_lost_if_a_later_one_of_its_queue_was_answered_and_time_has_passed() -> None:
    timer = timer_of("a1", "a2", "a3", "a4", *LAST)
    timer.record_result("a3", 5.0)
    timer.remove("a3")
    assert timer.due(5.0) == [*LAST]
    assert timer.due(5.0 + FIRST_INTERVAL) == [*LAST, "a1", "a2"]
    timer.record_send("a1", "a", 9.0)
    timer.record_result("a4", 9.1)  # which was sent before this copy of a1
    for task_id in LAST:
        timer.record_send(task_id, "a", 9.2)
    assert "a1" not in timer.due(100.0)


def test_a_reply_to_a_message_that_was_sent_twice_may_be_that_to_its_first_copy() -> None:
    timer = timer_of("a1", "a2")
    timer.record_send("a1", "a", 1.0)
    timer.record_result("a1", 2.0)
    timer.remove("a1")
    for task_id in LAST:
        timer.record_send(task_id, "a", 3.0)
    assert timer.due(100.0) == [*LAST]


def test_a_message_with_a_result_that_is_no_reply_is_sent_again_when_due() -> None:
    timer = timer_of("a1", "a2", *LAST)
    timer.record_result("a1", 1.0)
    assert timer.due(FIRST_INTERVAL) == ["a1", *LAST]
