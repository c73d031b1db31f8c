"""Replies are matched to messages, as anyone with access to the result store can swap them."""

from typing import Any

import pytest

from tests.support.builders.grants import grant
from tests.support.builders.messages import batch_id, grant_message
from tests.support.builders.replies import service_description
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from valetkey.wire.pending import PendingMessage, build_pending_message
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import (
    BatchState,
    Cancelled,
    Explanation,
    Grant,
    Listening,
    Outcome,
    Reply,
    ServiceInfo,
    Usage,
    UseState,
    UseStates,
)

BATCH, OTHER = batch_id(), batch_id()
REFUSAL = Refusal(code=Code.KEY_UNKNOWN, field="kid", message="no")
NO_KEY = Refusal(code=Code.KEY_INVALID, field="key", message="no", key="a")


def ask_message(ask: str, state: BatchState | None = None, **fields: Any) -> PendingMessage:
    body = {"v": 1, "ask": ask, "tenant": "acme", **fields}
    return build_pending_message("task", body, state)


def batch_state(total: int = 5, chunk_size: int = 2, **changes: Any) -> BatchState:
    counts = dict.fromkeys(("decided", "issued", "refused"), 0)
    fields = {"batch": BATCH, "kind": "download", "bucket": "b", **counts, **changes}
    return BatchState(total=total, chunk_size=chunk_size, **fields)


def numbered(item: int, key: str, **fields: Any) -> Grant:
    """Return the grant of an item of BATCH."""
    return grant(key, id=f"{BATCH}.{item}", **fields)


def outcome(
    batch: str = BATCH, chunk: int = 0, items: int | list[Any] = 2, **changes: Any
) -> Outcome:
    results = [NO_KEY] * items if isinstance(items, int) else items
    fields = {"batch": batch, "chunk": chunk, "status": "issued", "items": results}
    return Outcome.model_validate(fields | changes)


def use_states(*items: int) -> UseStates:
    states = [UseState(item=item, state="open") for item in items]
    return UseStates(batch=BATCH, kind="upload", bucket="b", total=5, items=states)


GRANTS = build_pending_message("task", grant_message(["a", "b"], batch=BATCH))
PARTS = PendingMessage("task", {"batch": BATCH, "items": [{"key": "a", "part": 1}]})
EXPLAIN = build_pending_message("task", grant_message(["a", "b"], batch=BATCH, ask="explain"))
USAGE, CANCEL = ask_message("usage"), ask_message("cancel", batch=BATCH, requested_by="me")
STATE, SERVICE = ask_message("batch", batch=BATCH), ask_message("service")
STATES = ask_message("status", batch=BATCH, items=[3, 1])
COUNTS = ask_message("status", batch=BATCH)
LISTEN = ask_message("listen", listener=BATCH)
REISSUE = ask_message("reissue", batch=OTHER, of=f"{BATCH}.0", requested_by="me")
REOPEN = ask_message("batch", batch_state(), batch=BATCH, chunk=1)
REPLIES: dict[str, tuple[PendingMessage, Reply]] = {
    "an outcome": (GRANTS, outcome()),
    "a chunk's outcome": (REOPEN, outcome(chunk=1)),
    "a batch's state": (STATE, batch_state()),
    "an explanation": (EXPLAIN, Explanation(decision="issue", rules=[])),
    "the states of items": (STATES, use_states(3, 1)),
    "the states of a batch": (COUNTS, use_states()),
    "a fresh grant": (REISSUE, outcome(OTHER, items=1)),
    "a usage": (USAGE, Usage(tenant="acme", quotas=[])),
    "a description": (SERVICE, ServiceInfo(**service_description("acme"))),
    "a listener": (LISTEN, Listening(listener=BATCH, expires_in=60, cursor=0)),
    "a cancellation": (CANCEL, Cancelled(batch=BATCH, issued=0, released=0)),
}
MESSAGES = [GRANTS, EXPLAIN, USAGE, CANCEL, STATE, REOPEN, SERVICE, STATES, COUNTS, REISSUE, LISTEN]


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_answers_its_own_message_and_no_other(name: str) -> None:
    message, reply = REPLIES[name]
    assert [other for other in MESSAGES if other.is_answered_by(reply)] == [message]


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (GRANTS, outcome(items=[numbered(0, "a"), numbered(1, "b")])),
        (GRANTS, outcome(items=[NO_KEY, numbered(1, "b")])),
        (PARTS, outcome(items=[numbered(0, "a", part=1)])),
        (REOPEN, outcome(chunk=1, items=[numbered(2, "c"), numbered(3, "d")])),
    ],
)
def test_grants_of_the_requested_objects_are_an_answer(
    message: PendingMessage, reply: Reply
) -> None:
    assert message.is_answered_by(reply)


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (GRANTS, outcome(batch=OTHER)),
        (GRANTS, outcome(chunk=1)),
        (GRANTS, outcome(items=1)),
        (GRANTS, outcome(items=3)),
        (GRANTS, outcome(items=[numbered(0, "a"), numbered(1, "c")])),
        (GRANTS, outcome(items=[NO_KEY, numbered(1, "a")])),
        (GRANTS, outcome(items=[NO_KEY, numbered(0, "b")])),
        (GRANTS, outcome(items=[NO_KEY, grant("b", id=f"{OTHER}.1")])),
        (PARTS, outcome(items=[numbered(0, "a", part=2)])),
        (REOPEN, outcome(chunk=1, items=[numbered(0, "c"), numbered(1, "d")])),
        (GRANTS, outcome(batch=OTHER, refusal=REFUSAL)),
        (CANCEL, Cancelled(batch=OTHER, issued=0, released=0)),
        (STATE, batch_state(batch=OTHER)),
        (REOPEN, outcome(chunk=1, items=1)),
        (REOPEN, outcome(chunk=0, refusal=REFUSAL)),
        (REOPEN, outcome(chunk=1, items=1, refusal=REFUSAL)),
        (USAGE, Usage(tenant="globex", quotas=[])),
        (SERVICE, ServiceInfo(**service_description("globex"))),
        (LISTEN, Listening(listener=OTHER, expires_in=60, cursor=0)),
    ],
)
def test_the_reply_to_another_message_is_no_answer(message: PendingMessage, reply: Reply) -> None:
    assert not message.is_answered_by(reply)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_refusal_of_an_unauthenticated_message_answers_any_message(
    message: PendingMessage,
) -> None:
    assert message.is_answered_by(outcome(batch="", items=0, refusal=REFUSAL))


@pytest.mark.parametrize("batch", [None, "1"])
def test_a_malformed_message_is_refused_without_being_sent(batch: str | None) -> None:
    message = ask_message("cancel", batch=batch, requested_by="me")
    assert message.refusal is not None
    assert (message.refusal.code, message.refusal.field) == (Code.MALFORMED, "batch")
    assert message.refused_outcome(message.refusal).refusal == message.refusal


def test_a_chunk_that_is_not_decided_yet_is_postponed() -> None:
    unknown = Refusal(code=Code.BATCH_UNKNOWN, field="chunk", message="not yet")
    undecided = outcome(chunk=1, items=0, refusal=unknown)
    assert [message for message in MESSAGES if message.is_postponed_by(undecided)] == [REOPEN]
    assert not REOPEN.is_postponed_by(outcome(chunk=1, items=0, refusal=REFUSAL))


def test_the_results_of_a_refused_chunk_have_the_known_keys_and_refs() -> None:
    refused = outcome(chunk=1, items=0, refusal=REFUSAL)
    assert [result.key for result in GRANTS.item_results(refused)] == ["a", "b"]
    assert [result.key for result in REOPEN.item_results(refused)] == [None, None]
    items = [{"key": "a", "ref": "user-1"}, {"key": "a"}]
    message = build_pending_message("task", grant_message(["a"], batch=BATCH) | {"items": items})
    assert [result.ref for result in message.item_results(refused)] == ["user-1", None]
    refused_items = outcome(chunk=1, refusal=REFUSAL)
    assert [result.key for result in REOPEN.item_results(refused_items)] == ["a"] * 2
    assert len(ask_message("batch", batch_state(), batch=BATCH, chunk=2).items) == 1


@pytest.mark.parametrize(
    ("total", "queue"),
    [(1, INTERACTIVE_QUEUE), (20, INTERACTIVE_QUEUE), (21, BULK_QUEUE), (600, BULK_QUEUE)],
)
def test_small_batches_have_a_queue_of_their_own(total: int, queue: str) -> None:
    items = [f"a/{number}" for number in range(min(total, 500))]
    body = grant_message(items, total=total, chunk_size=500)
    assert build_pending_message("task", body).queue == queue


def test_reopening_a_large_batch_uses_the_bulk_queue_but_other_questions_do_not() -> None:
    assert {USAGE.queue, STATE.queue, REOPEN.queue} == {INTERACTIVE_QUEUE}
    assert ask_message("batch", batch_state(total=21), batch=BATCH, chunk=1).queue == BULK_QUEUE


def refused(code: str, field: str) -> Outcome:
    refusal = {"code": code, "field": field, "message": "no"}
    return outcome(items=0, status="refused", refusal=refusal)


@pytest.mark.parametrize(
    ("code", "field"),
    [
        ("unknown_field", "grant.later"),
        ("malformed", "items[0].later"),
        ("version_unknown", "v"),
        ("kind_not_allowed", "grant"),
    ],
)
def test_a_service_that_refuses_the_form_of_a_sent_message_is_called_older(
    code: str, field: str
) -> None:
    reply = GRANTS.with_release_hint(refused(code, field))
    assert isinstance(reply, Outcome)
    assert reply.refusal is not None
    assert "the service is older" in reply.refusal.message
    assert (reply.refusal.code, reply.refusal.field) == (code, field)


@pytest.mark.parametrize(
    "reply",
    [
        refused("kind_not_allowed", "grant.kind"),
        refused("quota_exceeded", "total"),
        refused("later", "grant"),
        outcome(),
        Usage(tenant="acme", quotas=[]),
    ],
)
def test_any_other_reply_says_nothing_about_the_release(reply: Reply) -> None:
    assert GRANTS.with_release_hint(reply) is reply
