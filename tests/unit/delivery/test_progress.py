"""The order in which a batch is sent, answered and read, and the counts of its items."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders.grants import grant
from tests.support.builders.messages import batch_id
from valetkey.delivery.progress import BatchProgress, ReopenedBatchProgress
from valetkey.wire.pending import PendingMessage, build_pending_message
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import BatchState, Grant, Outcome

BATCH = batch_id()
NO_LIMIT = float("inf")
FAR_FUTURE = datetime(2099, 1, 1, tzinfo=UTC)
CLOSED = Refusal(code=Code.BATCH_CLOSED, field="batch", message="no more")


def batch_state(chunks: int, decided: int = 0, **changes: Any) -> BatchState:
    """The state of a batch with two items per chunk; all items of decided chunks are granted."""
    fields = {"kind": "download", "bucket": "b", "refused": 0, "issued": 2 * decided, **changes}
    return BatchState(batch=BATCH, total=2 * chunks, chunk_size=2, decided=decided, **fields)


def messages_of(state: BatchState) -> Iterator[PendingMessage]:
    for chunk in range(state.total // 2):
        body = {"v": 1, "ask": "batch", "tenant": "acme", "batch": BATCH, "chunk": chunk}
        yield build_pending_message(f"task.{chunk}", body, state)


def new_progress(chunks: int) -> BatchProgress:
    state = batch_state(chunks)
    header = {"batch": BATCH, "total": state.total, "chunk_size": 2}
    return BatchProgress(header, messages_of(state))


def granted(message: PendingMessage) -> Outcome:
    first = message.chunk_number * 2
    items: list[Grant | Refusal] = [grant(id=f"{BATCH}.{first + n}") for n in range(2)]
    return Outcome(batch=BATCH, chunk=message.chunk_number, status="issued", items=items)


def read_chunk_numbers(progress: BatchProgress) -> list[int]:
    """Read the ready results; return the numbers of their chunks."""
    grants = [result for result in progress.ready_results if isinstance(result, Grant)]
    progress.ready_results.clear()
    return [int(grant.id.rpartition(".")[2]) // 2 for grant in grants][::2]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=6))
def test_in_any_mixture_of_orders_each_chunk_is_read_once(choices: list[tuple[int, bool]]) -> None:
    progress = new_progress(6)
    read: list[int] = []
    in_flight: list[PendingMessage] = []
    for choice, in_order in [*choices, *[(0, True)] * 12]:
        while (message := progress.next_message(3)) is not None:
            in_flight.append(message)
        assert len(in_flight) <= 3
        if in_flight:
            answered = in_flight.pop(choice % len(in_flight))
            progress.receive_reply(answered, granted(answered))
        if progress.has_chunk(in_order=in_order):
            progress.read_chunk(in_order=in_order)
        read += read_chunk_numbers(progress)
    assert sorted(read) == list(range(6))
    assert progress.is_fully_read
    assert (progress.issued, progress.remaining, progress.unanswered) == (12, 0, {})


def test_chunks_read_as_completed_come_in_the_order_of_the_replies() -> None:
    progress = new_progress(4)
    messages = [progress.next_message(NO_LIMIT) for _ in range(4)]
    for number in (2, 0, 3):
        message = messages[number]
        assert message is not None
        progress.receive_reply(message, granted(message))
    progress.read_chunk(in_order=False)
    progress.read_chunk(in_order=False)
    assert read_chunk_numbers(progress) == [2, 0]
    assert not progress.has_chunk()
    progress.read_chunk(in_order=False)
    assert read_chunk_numbers(progress) == [3]


def test_a_message_that_is_not_ready_yet_is_not_counted_as_sent() -> None:
    state = batch_state(1)
    progress = BatchProgress(
        {"batch": BATCH, "total": 2, "chunk_size": 2}, iter([None, next(messages_of(state))])
    )
    assert progress.next_message(NO_LIMIT) is None
    assert not progress.has_started
    assert progress.next_message(NO_LIMIT) is not None
    assert progress.is_fully_sent


def test_after_an_error_of_the_items_no_more_items_are_read() -> None:
    def failing_messages() -> Iterator[PendingMessage]:
        yield from messages_of(batch_state(1))
        raise LookupError

    progress = BatchProgress({"batch": BATCH, "total": 4, "chunk_size": 2}, failing_messages())
    assert progress.next_message(NO_LIMIT)
    with pytest.raises(LookupError):
        progress.next_message(NO_LIMIT)
    with pytest.raises(RuntimeError, match="could not be read"):
        progress.next_message(NO_LIMIT)


def test_a_reopened_batch_has_the_counts_of_its_state_until_it_has_more_results() -> None:
    state = batch_state(10, decided=3)
    progress = ReopenedBatchProgress(state, messages_of(state))
    assert (progress.issued, progress.refused, progress.remaining) == (6, 0, 14)
    assert progress.unanswered_hint == " to 20 of 20 items"
    messages = iter(lambda: progress.next_message(NO_LIMIT), None)
    for count, message in enumerate(messages, 1):
        reply = granted(message) if count < 10 else message.refused_outcome(CLOSED)
        progress.receive_reply(message, reply)
    assert (progress.issued, progress.refused, progress.remaining) == (18, 2, 0)


def test_few_chunks_of_a_reopened_batch_are_requested_that_may_be_undecided() -> None:
    state = batch_state(100, decided=3)
    progress = ReopenedBatchProgress(state, messages_of(state))
    messages = [m for m in (progress.next_message(NO_LIMIT) for _ in range(20)) if m]
    assert len(messages) == 7
    progress.receive_reply(messages[0], granted(messages[0]))
    assert progress.next_message(NO_LIMIT) is None
    for message in messages[1:4]:
        progress.receive_reply(message, granted(message))
    assert progress.next_message(NO_LIMIT) is not None
    assert progress.next_message(NO_LIMIT) is None


@pytest.mark.parametrize("changes", [{"refusal": CLOSED}, {"cancelled": True}])
def test_a_reopened_batch_that_was_closed_has_a_refusal_and_is_still_requested(
    changes: dict[str, Any],
) -> None:
    state = batch_state(2, decided=1, **changes)
    progress = ReopenedBatchProgress(state, messages_of(state))
    assert progress.refusal is not None
    assert progress.refusal.code is Code.BATCH_CLOSED
    assert progress.closing_refusal is None
    assert progress.next_message(NO_LIMIT) is not None


@pytest.mark.parametrize(
    ("text", "deadline"),
    [
        ("2099-01-01T00:00:00+00:00", FAR_FUTURE),
        ("2099-01-01T00:00:00Z", FAR_FUTURE),
        ("2099-01-01T00:00:00", None),
        ("soon", None),
        (None, None),
    ],
)
def test_an_invalid_deadline_is_left_to_the_service_to_refuse(
    text: str | None, deadline: datetime | None
) -> None:
    header = {"batch": BATCH, "total": 2, "chunk_size": 2, "deadline": text}
    assert BatchProgress(header, iter(())).deadline == deadline
