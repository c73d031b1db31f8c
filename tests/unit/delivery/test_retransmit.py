from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from valetkey.delivery.retransmit import (
    FIRST_INTERVAL,
    MAX_INTERVAL,
    PROBE_INTERVAL,
    RetransmitTimer,
)

WINDOW = 4
jitters = st.floats(0, 1, exclude_max=True)


class Sending(RuleBasedStateMachine):
    """A sender, a clock, and what a careful observer knows of the chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.jitter = 0.0
        self.sender = RetransmitTimer(lambda: self.jitter, window=WINDOW)
        self.sent: dict[str, float] = {}
        self.settled: set[str] = set()

    @rule(jitter=jitters)
    def chance_changes(self, jitter: float) -> None:
        self.jitter = jitter

    @precondition(lambda self: self.sender.has_room)
    @rule()
    def a_new_chunk_is_sent(self) -> None:
        self._send(f"batch.{len(self.sent)}")

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def what_is_due_is_sent_again(self) -> None:
        for chunk in self.sender.due(self.now):
            assert chunk not in self.settled
            assert self.now > self.sent[chunk]
            self._send(chunk)
        assert self.sender.next_due() > self.now

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def an_answer_arrives_perhaps_twice(self, data: st.DataObject) -> None:
        chunk = data.draw(st.sampled_from(sorted(self.sent)))
        self.sender.settled(chunk)
        self.settled.add(chunk)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def an_answer_puts_it_off(self, data: st.DataObject) -> None:
        chunk = data.draw(st.sampled_from(sorted(self.sent)))
        self.sender.postponed(chunk, self.now)
        self.sent[chunk] = self.now

    @invariant()
    def no_more_than_a_window_is_unanswered(self) -> None:
        assert len(self.sender.unanswered) <= WINDOW
        assert self.sender.has_room == (len(self.sender.unanswered) < WINDOW)

    @invariant()
    def a_chunk_is_unanswered_until_it_is_settled(self) -> None:
        assert set(self.sender.unanswered) == self.sent.keys() - self.settled

    @invariant()
    def no_silent_chunk_is_forgotten(self) -> None:
        assert not self.sender.unanswered or self.sender.next_due() <= self.now + 1.5 * MAX_INTERVAL

    def _send(self, chunk: str) -> None:
        self.sender.sent(chunk, self.now)
        self.sent[chunk] = self.now


TestSending = Sending.TestCase


@given(st.lists(jitters, min_size=2, max_size=20))
def test_a_silent_chunk_is_sent_again_with_gaps_that_grow_to_a_limit(chances: list[float]) -> None:
    sender = RetransmitTimer(iter(chances).__next__)
    times = [0.0]
    for _ in chances:
        sender.sent("chunk", times[-1])
        times.append(sender.next_due())
        assert sender.due(times[-1]) == ["chunk"]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    for gap, next_gap in pairwise(gaps):
        assert next_gap > gap or gap >= MAX_INTERVAL
    assert max(gaps) <= 1.5 * MAX_INTERVAL + 1e-9  # the clock rounds


def test_a_chunk_is_not_due_before_its_time() -> None:
    sender = RetransmitTimer(lambda: 0.5)
    sender.sent("chunk", 10.0)
    assert sender.due(sender.next_due() - 0.001) == []


def test_what_is_put_off_is_asked_for_soon_and_then_as_patiently_as_at_first() -> None:
    sender = RetransmitTimer(lambda: 0.0)
    for _ in range(9):
        sender.sent("chunk", 0.0)
    sender.postponed("chunk", 100.0)
    assert sender.next_due() == 100.0 + PROBE_INTERVAL
    sender.sent("chunk", 200.0)
    assert sender.next_due() == 200.0 + FIRST_INTERVAL


def test_nothing_is_due_where_nothing_waits() -> None:
    sender = RetransmitTimer(lambda: 0.5)
    assert sender.next_due() == float("inf")
