"""What of a batch is sent, answered and read, in which order, and how much of it is counted."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders.messages import batch_id
from valetkey.delivery.progress import BatchProgress, ReopenedBatchProgress
from valetkey.wire.messages import Grant, Outcome
from valetkey.wire.pending import PendingMessage, pending_message
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.states import BatchState

BATCH = batch_id()
FOREVER = float("inf")
NEVER = datetime(2099, 1, 1, tzinfo=UTC)
CLOSED = Refusal(code=Code.BATCH_CLOSED, field="batch", message="no more")


def state(chunks: int, decided: int = 0, **more: Any) -> BatchState:
    """A batch of two items a chunk, of which all decided were granted."""
    said = {"kind": "download", "bucket": "b", "refused": 0, "issued": 2 * decided, **more}
    return BatchState(batch=BATCH, total=2 * chunks, chunk_size=2, decided=decided, **said)


def letters(of: BatchState) -> Iterator[PendingMessage]:
    for chunk in range(of.total // 2):
        ask = {"v": 1, "ask": "batch", "tenant": "acme", "batch": BATCH, "chunk": chunk}
        yield pending_message(f"task.{chunk}", ask, of)


def asked(chunks: int) -> BatchProgress:
    of = state(chunks)
    return BatchProgress({"batch": BATCH, "total": of.total, "chunk_size": 2}, letters(of))


def granted(sent: PendingMessage) -> Outcome:
    items: list[Grant | Refusal] = [
        Grant(
            id=f"{BATCH}.{sent.number * 2 + number}",
            key="k",
            method="GET",
            url="u",
            expires_at=NEVER,
            limited_by="request",
        )
        for number in range(2)
    ]
    return Outcome(batch=BATCH, chunk=sent.number, status="issued", items=items)


def read(progress: BatchProgress) -> list[int]:
    """The chunks that are ready."""
    ready = [answer for answer in progress.ready if isinstance(answer, Grant)]
    progress.ready.clear()
    return [int(answer.id.rpartition(".")[2]) // 2 for answer in ready][::2]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=6))
def test_in_any_mixture_of_orders_each_chunk_is_read_once(choices: list[tuple[int, bool]]) -> None:
    progress = asked(6)
    seen: list[int] = []
    under_way: list[PendingMessage] = []
    for which, in_order in [*choices, *[(0, True)] * 12]:
        while (sent := progress.next_letter(3)) is not None:
            under_way.append(sent)
        assert len(under_way) <= 3
        if under_way:
            answered = under_way.pop(which % len(under_way))
            progress.answer(answered, granted(answered))
        if in_order and progress.has_next:
            progress.read_next()
        elif not in_order and progress.has_any:
            progress.read_any()
        seen += read(progress)
    assert sorted(seen) == list(range(6))
    assert progress.all_read
    assert (progress.issued, progress.remaining, progress.unanswered) == (12, 0, {})


def test_what_is_read_as_completed_comes_in_the_order_of_the_answers() -> None:
    progress = asked(4)
    sent = [progress.next_letter(FOREVER) for _ in range(4)]
    for number in (2, 0, 3):
        one = sent[number]
        assert one is not None
        progress.answer(one, granted(one))
    progress.read_any()
    progress.read_any()
    assert read(progress) == [2, 0]
    assert not progress.has_next
    progress.read_any()
    assert read(progress) == [3]


def test_a_letter_that_is_not_there_yet_is_not_counted_as_sent() -> None:
    of = state(1)
    progress = BatchProgress(
        {"batch": BATCH, "total": 2, "chunk_size": 2}, iter([None, next(letters(of))])
    )
    assert progress.next_letter(FOREVER) is None
    assert not progress.started
    assert progress.next_letter(FOREVER) is not None
    assert progress.all_sent


def test_items_that_could_not_be_read_are_not_read_on() -> None:
    def broken() -> Iterator[PendingMessage]:
        yield from letters(state(1))
        raise LookupError

    progress = BatchProgress({"batch": BATCH, "total": 4, "chunk_size": 2}, broken())
    assert progress.next_letter(FOREVER)
    with pytest.raises(LookupError):
        progress.next_letter(FOREVER)
    with pytest.raises(RuntimeError, match="could not be read"):
        progress.next_letter(FOREVER)


def test_a_reopened_batch_counts_what_it_was_found_with_until_it_has_heard_more() -> None:
    found = state(10, decided=3)
    progress = ReopenedBatchProgress(found, letters(found))
    assert (progress.issued, progress.refused, progress.remaining) == (6, 0, 14)
    assert progress.missing == " to 20 of 20 items"
    sent = iter(lambda: progress.next_letter(FOREVER), None)
    for count, one in enumerate(sent, 1):
        progress.answer(one, granted(one) if count < 10 else one.refused(CLOSED))
    assert (progress.issued, progress.refused, progress.remaining) == (18, 2, 0)


def test_of_a_reopened_batch_few_chunks_are_asked_for_that_may_not_be_decided() -> None:
    found = state(100, decided=3)
    progress = ReopenedBatchProgress(found, letters(found))
    sent = [one for one in (progress.next_letter(FOREVER) for _ in range(20)) if one]
    assert len(sent) == 7
    progress.answer(sent[0], granted(sent[0]))
    assert progress.next_letter(FOREVER) is None
    for one in sent[1:4]:
        progress.answer(one, granted(one))
    assert progress.next_letter(FOREVER) is not None
    assert progress.next_letter(FOREVER) is None


@pytest.mark.parametrize("more", [{"refusal": CLOSED}, {"cancelled": True}])
def test_a_reopened_batch_that_was_closed_says_so_and_is_asked_for_all_the_same(
    more: dict[str, Any],
) -> None:
    found = state(2, decided=1, **more)
    progress = ReopenedBatchProgress(found, letters(found))
    assert progress.refusal is not None
    assert progress.refusal.code is Code.BATCH_CLOSED
    assert progress.closed is None
    assert progress.next_letter(FOREVER) is not None


@pytest.mark.parametrize(
    ("said", "deadline"),
    [
        ("2099-01-01T00:00:00+00:00", NEVER),
        ("2099-01-01T00:00:00Z", NEVER),
        ("2099-01-01T00:00:00", None),
        ("soon", None),
        (None, None),
    ],
)
def test_a_deadline_that_is_none_is_left_to_the_service_to_refuse(
    said: str | None, deadline: datetime | None
) -> None:
    head = {"batch": BATCH, "total": 2, "chunk_size": 2, "deadline": said}
    assert BatchProgress(head, iter(())).deadline == deadline
