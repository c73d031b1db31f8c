"""Whose turn it is, however many ask."""

from typing import Any

import pytest

from valetkey.delivery.in_flight import FIRST_CHUNKS_SECONDS, InFlight, no_answer
from valetkey.delivery.progress import ReopenedBatchProgress, SingleRequest
from valetkey.delivery.retransmit import FIRST_INTERVAL, PROBE_INTERVAL, RetransmitTimer
from valetkey.wire.messages import Usage
from valetkey.wire.pending import PendingMessage, pending_message
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.states import BatchState

REFUSAL = Refusal(code=Code.BATCH_CLOSED, field="batch", message="no more")


class Many(SingleRequest):
    """An errand of so many letters."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(usage(name))
        self._names = [f"{name}.{number}" for number in range(count)]
        self.all_sent = not count
        self.answered: list[str] = []

    def next_letter(self, ahead: float) -> PendingMessage | None:  # noqa: ARG002 - as errands have it
        if self.all_sent:
            return None
        one = usage(self._names.pop(0))
        self.all_sent = not self._names
        self.unanswered[one.name] = one
        return one

    def answer(self, letter: PendingMessage, reply: Any) -> None:
        super().answer(letter, reply)
        self.answered.append(letter.name)


def usage(name: str) -> PendingMessage:
    return pending_message(name, {"v": 1, "ask": "usage", "tenant": "acme"})


def rounds(window: int, *errands: Many) -> InFlight:
    made = InFlight(RetransmitTimer(lambda: 0.0, window))
    for errand in errands:
        made.take(errand)
    return made


def sent(made: InFlight, count: int) -> list[str]:
    """Send so many letters, where there are as many."""
    names: list[str] = []
    for _ in range(count):
        for errand in made.turns():
            one = errand.next_letter(made.ahead(errand, 9, 0.0))
            if one is not None and made.enters(errand, one, 0.0):
                made.sent(one.name, 0.0)
                names.append(one.name)
                break
    return names


TOLD = Usage(tenant="acme", quotas=[])


def test_errands_take_turns() -> None:
    made = rounds(10, Many("a", 3), Many("b", 1), Many("c", 2))
    assert sent(made, 9) == ["a.0", "b.0", "c.0", "a.1", "c.1", "a.2"]


def test_room_that_one_answer_makes_goes_to_whoever_waits_longest() -> None:
    made = rounds(2, Many("a", 9))
    assert sent(made, 3) == ["a.0", "a.1"]
    made.take(Many("b", 1))
    assert made.receive("a.0", TOLD, 0.0) == "settled"
    assert made.receive("a.1", TOLD, 0.0) == "settled"
    assert sent(made, 3) == ["a.2", "b.0"]


def test_what_is_given_up_is_sent_once_more_when_it_is_taken_on_again() -> None:
    errand = Many("a", 2)
    made = rounds(9, errand)
    sent(made, 2)
    assert made.drop(errand) == ["a.0", "a.1"]
    assert made.idle
    assert made.receive("a.0", TOLD, 0.0) == "ignored"
    made.take(errand)
    made.take(errand)
    assert [one.name for one in made.given_up(lambda: 9.0)] == ["a.0", "a.1"]
    assert made.errands == {errand}
    assert made.receive("a.1", TOLD, 0.0) == "settled"
    assert errand.answered == ["a.1"]


def test_while_a_letter_cannot_be_sent_no_other_is_tried() -> None:
    made = rounds(9, Many("a", 3))
    (name,) = sent(made, 1)
    made.sent(name, 0.0, is_stuck=True)
    assert sent(made, 2) == []
    made.sent(name, 0.0)
    assert sent(made, 2) == ["a.1", "a.2"]


@pytest.mark.parametrize("end", ["given up", "answered"])
def test_what_could_not_be_sent_and_has_ended_is_in_nobodys_way(end: str) -> None:
    lost, others = Many("a", 1), Many("b", 2)
    made = rounds(9, lost, others)
    (name,) = sent(made, 1)
    made.sent(name, 0.0, is_stuck=True)
    if end == "given up":
        made.drop(lost)
    else:
        made.receive(name, Usage(tenant="acme", quotas=[]), 0.0)
    assert sent(made, 2) == ["b.0", "b.1"]


def test_behind_one_that_cannot_be_sent_what_was_given_up_is_only_due_later() -> None:
    errand = Many("a", 3)
    made = rounds(9, errand)
    sent(made, 3)
    made.drop(errand)
    made.take(errand)
    tried = []
    for one in made.given_up(lambda: 7.0):
        tried.append(one.name)
        made.sent(one.name, 7.0, is_stuck=True)
    assert tried == ["a.0"]
    assert made.due(7.0) == []
    assert [one.name for one in made.due(7.0 + FIRST_INTERVAL)] == ["a.0", "a.1", "a.2"]


def test_of_a_closed_errand_nothing_is_sent() -> None:
    errand = Many("a", 3)
    errand.closed = REFUSAL
    made = rounds(9, errand)
    assert sent(made, 3) == []
    assert errand.answered == ["a.0", "a.1", "a.2"]
    assert made.idle


def test_an_answer_that_is_none_leaves_the_letter_unanswered() -> None:
    errand = Many("a", 1)
    made = rounds(9, errand)
    sent(made, 1)
    assert made.receive("a.0", "working", 0.0) == "ignored"
    assert made.receive("a.0", "failed", 0.0) == "useless"
    assert made.receive("a.0", Usage(tenant="globex", quotas=[]), 0.0) == "useless"
    assert (errand.failures, made.unanswered, made.idle) == (2, ["a.0"], False)
    assert "the worker's log says why" in str(no_answer(errand, 1))


def test_an_errands_first_letters_have_a_moment_to_themselves() -> None:
    errand = Many("a", 9)
    made = rounds(9, errand)
    assert made.next_time(0.0) == float("inf")
    sent(made, 1)
    assert [made.ahead(errand, 9, now) for now in (0.0, FIRST_CHUNKS_SECONDS / 2)] == [4, 4]
    assert made.ahead(errand, 1, 0.0) == 1
    assert made.next_time(0.0) == FIRST_CHUNKS_SECONDS
    assert made.ahead(errand, 9, FIRST_CHUNKS_SECONDS) == 9
    assert made.next_time(FIRST_CHUNKS_SECONDS) == FIRST_INTERVAL


def test_the_moment_ends_with_the_answer_to_the_first_of_them_or_with_the_last_letter() -> None:
    long, short = Many("a", 9), Many("b", 1)
    made = rounds(9, long, short)
    assert sent(made, 3) == ["a.0", "b.0", "a.1"]
    made.receive("a.1", TOLD, 0.0)
    assert (made.ahead(long, 9, 0.0), made.next_time(0.0)) == (4, FIRST_CHUNKS_SECONDS)
    made.receive("a.0", TOLD, 0.0)
    assert made.ahead(long, 9, 0.0) == 9
    assert made.next_time(0.0) == FIRST_INTERVAL


def test_whoever_waits_for_room_wakes_nobody() -> None:
    made = rounds(1, *(Many(name, 9) for name in "abc"))
    sent(made, 1)
    assert made.next_time(FIRST_CHUNKS_SECONDS) == FIRST_INTERVAL


def test_what_is_put_off_is_sent_again_soon() -> None:
    of = BatchState(
        batch="b",
        kind="download",
        bucket="b",
        total=1,
        chunk_size=1,
        decided=0,
        issued=0,
        refused=0,
    )
    errand = ReopenedBatchProgress(
        of, iter([PendingMessage("a.0", {"ask": "batch", "batch": "b", "chunk": 0}, of=of)])
    )
    made = InFlight(RetransmitTimer(lambda: 0.0))
    made.take(errand)
    one = errand.next_letter(1)
    assert one is not None
    assert made.enters(errand, one, 0.0)
    made.sent("a.0", 0.0)
    unknown = Refusal(code=Code.BATCH_UNKNOWN, field="chunk", message="not yet")
    assert made.receive("a.0", one.refused(unknown), 1.0) == "useless"
    assert made.next_time(1.0) == 1.0 + PROBE_INTERVAL
    assert "has not decided" in str(no_answer(errand, 1))
