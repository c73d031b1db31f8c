"""Whoever can write to the result store can put one answer in another's place."""

from typing import Any

import pytest

from tests.support.builders.messages import batch_id, grant_message
from valetkey.wire.messages import (
    BULK_QUEUE,
    INTERACTIVE_QUEUE,
    Cancelled,
    Explanation,
    Outcome,
    Reply,
    Usage,
)
from valetkey.wire.pending import PendingMessage, pending_message
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.states import BatchState

BATCH, OTHER = batch_id(), batch_id()
REFUSAL = Refusal(code=Code.KEY_UNKNOWN, field="kid", message="no")
NO_KEY = Refusal(code=Code.KEY_INVALID, field="key", message="no", key="a")


def asking(ask: str, of: BatchState | None = None, **said: Any) -> PendingMessage:
    return pending_message("task", {"v": 1, "ask": ask, "tenant": "acme", **said}, of)


def state(total: int = 5, chunk_size: int = 2, **more: Any) -> BatchState:
    counts = dict.fromkeys(("decided", "issued", "refused"), 0)
    said = {"batch": BATCH, "kind": "download", "bucket": "b", **counts, **more}
    return BatchState(total=total, chunk_size=chunk_size, **said)


def outcome(batch: str = BATCH, chunk: int = 0, items: int = 2, **more: Any) -> Outcome:
    said = {"batch": batch, "chunk": chunk, "status": "issued", "items": [NO_KEY] * items}
    return Outcome.model_validate(said | more)


GRANTS = pending_message("task", grant_message(["a", "b"], batch=BATCH))
EXPLAIN = pending_message("task", grant_message(["a", "b"], batch=BATCH, ask="explain"))
USAGE, CANCEL = asking("usage"), asking("cancel", batch=BATCH, requested_by="me")
FIND = asking("batch", batch=BATCH)
REOPEN = asking("batch", state(), batch=BATCH, chunk=1)
REPLIES: dict[str, tuple[PendingMessage, Reply]] = {
    "an outcome": (GRANTS, outcome()),
    "a chunk's outcome": (REOPEN, outcome(chunk=1)),
    "a batch's state": (FIND, state()),
    "an explanation": (EXPLAIN, Explanation(decision="issue", rules=[])),
    "a usage": (USAGE, Usage(tenant="acme", quotas=[])),
    "a cancellation": (CANCEL, Cancelled(batch=BATCH, issued=0, released=0)),
}
LETTERS = [GRANTS, EXPLAIN, USAGE, CANCEL, FIND, REOPEN]


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_answers_the_letter_that_asks_for_it_and_no_other(name: str) -> None:
    asked, reply = REPLIES[name]
    assert [one for one in LETTERS if one.is_answered_by(reply)] == [asked]


@pytest.mark.parametrize(
    ("asked", "reply"),
    [
        (GRANTS, outcome(batch=OTHER)),
        (GRANTS, outcome(chunk=1)),
        (GRANTS, outcome(items=1)),
        (GRANTS, outcome(items=3)),
        (GRANTS, outcome(batch=OTHER, refusal=REFUSAL)),
        (CANCEL, Cancelled(batch=OTHER, issued=0, released=0)),
        (FIND, state(batch=OTHER)),
        (REOPEN, outcome(chunk=1, items=1)),
        (REOPEN, outcome(chunk=0, refusal=REFUSAL)),
        (REOPEN, outcome(chunk=1, items=1, refusal=REFUSAL)),
        (USAGE, Usage(tenant="globex", quotas=[])),
    ],
)
def test_an_answer_to_another_letter_is_none(asked: PendingMessage, reply: Reply) -> None:
    assert not asked.is_answered_by(reply)


@pytest.mark.parametrize("asked", LETTERS)
def test_a_refusal_of_somebody_unknown_answers_any_letter(asked: PendingMessage) -> None:
    assert asked.is_answered_by(outcome(batch="", items=0, refusal=REFUSAL))


def test_a_letter_that_would_not_be_understood_is_refused_already() -> None:
    asked = pending_message("task", {"v": 1, "ask": "cancel", "tenant": "acme", "batch": "1"})
    assert asked.refusal is not None
    assert asked.refusal.code is Code.MALFORMED
    assert {one.refusal for one in LETTERS} == {None}


def test_a_chunk_that_is_not_decided_yet_is_asked_for_again() -> None:
    unknown = Refusal(code=Code.BATCH_UNKNOWN, field="chunk", message="not yet")
    not_yet = outcome(chunk=1, items=0, refusal=unknown)
    assert [one for one in LETTERS if one.is_put_off_by(not_yet)] == [REOPEN]
    assert not REOPEN.is_put_off_by(outcome(chunk=1, items=0, refusal=REFUSAL))


def test_a_refused_chunk_says_the_keys_that_are_known() -> None:
    refusal = outcome(chunk=1, items=0, refusal=REFUSAL)
    assert [answer.key for answer in GRANTS.answers(refusal)] == ["a", "b"]
    assert [answer.key for answer in REOPEN.answers(refusal)] == [None, None]
    assert [answer.key for answer in REOPEN.answers(outcome(chunk=1, refusal=REFUSAL))] == ["a"] * 2
    assert len(asking("batch", state(), batch=BATCH, chunk=2).keys) == 1


@pytest.mark.parametrize(
    ("total", "queue"),
    [(1, INTERACTIVE_QUEUE), (20, INTERACTIVE_QUEUE), (21, BULK_QUEUE), (600, BULK_QUEUE)],
)
def test_what_somebody_may_wait_for_goes_before_bulk(total: int, queue: str) -> None:
    items = [f"a/{number}" for number in range(min(total, 500))]
    assert pending_message("task", grant_message(items, total=total, chunk_size=500)).queue == queue


def test_a_question_goes_before_bulk_but_not_a_large_batch_once_more() -> None:
    assert {USAGE.queue, FIND.queue, REOPEN.queue} == {INTERACTIVE_QUEUE}
    assert asking("batch", state(total=21), batch=BATCH, chunk=1).queue == BULK_QUEUE
