"""Messages that wait for a reply, and the check that a reply belongs to a message. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from typing import Any

from pydantic_core import to_json

from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE, RELEASE
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import (
    BUNDLE_TASK_PREFIX,
    MAX_INTERACTIVE_ITEMS,
    VERSION,
    unbundled_field,
)
from valetkey.wire.parsing import parse_message
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import (
    BatchState,
    BundleReply,
    Cancelled,
    Explanation,
    Grant,
    Listening,
    Outcome,
    Reply,
    ServiceInfo,
    Usage,
    UseStates,
)

_FORM_CODES = frozenset({Code.MALFORMED, Code.UNKNOWN_FIELD, Code.VERSION_UNKNOWN})
_KIND_UNKNOWN = (Code.KIND_NOT_ALLOWED, "grant")  # a policy's refusal has the field grant.kind
_MAX_BUNDLED_BYTES = 4_096  # of JSON; so that a bundle is no larger than a chunk
_OLDER_SERVICE = (
    f" (valetkey {RELEASE} can send this, but the service does not read it: the service is older;"
    " `valetkey service` shows what it reads)"
)


@dataclass(frozen=True)
class PendingMessage:
    """A message that waits for its reply, and the id of the Celery task that carries it.

    refusal is set if the service would refuse the message as malformed; it is then not sent.
    batch_state is set if the message asks for a chunk of a reopened batch.
    """

    task_id: str
    body: dict[str, Any]
    refusal: Refusal | None = None
    batch_state: BatchState | None = None

    @property
    def chunk_number(self) -> int:
        """The chunk's number in its batch, from 0."""
        number: int = self.body.get("chunk", 0)
        return number

    @property
    def queue(self) -> str:
        """The queue to send it to: small batches must not wait behind large ones."""
        total = self.body.get("total", 1) if self.batch_state is None else self.batch_state.total
        return INTERACTIVE_QUEUE if total <= MAX_INTERACTIVE_ITEMS else BULK_QUEUE

    @property
    def expiry_header(self) -> Mapping[str, str]:
        """Celery's header `expires` with its deadline, of a bundle the last one; may be empty.

        A message that is first sent after it may ask for a reply that was lost, so it has none.
        """
        deadlines = [each.get("deadline") for each in self.body.get("messages", (self.body,))]
        if None in deadlines:
            return {}
        last = max(map(datetime.fromisoformat, deadlines))
        return {"expires": last.isoformat()} if last > datetime.now(UTC) else {}

    @property
    def may_be_bundled(self) -> bool:
        """True for a small request that may be sent in one message with others."""
        if self.refusal is not None or unbundled_field(self.body) is not None:
            return False
        try:
            return len(to_json(self.body)) <= _MAX_BUNDLED_BYTES
        except ValueError:  # a key that UTF-8 cannot encode
            return False

    @property
    def items(self) -> Sequence[Mapping[str, Any]]:
        """Its items, in order; an empty one for each that is not known."""
        state = self.batch_state
        if state is None:
            items: Sequence[Mapping[str, Any]] = self.body.get("items", ({},))
            return items
        return [{}] * min(state.chunk_size, state.total - self.chunk_number * state.chunk_size)

    def is_answered_by(self, reply: Reply) -> bool:
        """Return true if the reply belongs to this message and decides all of its items.

        The check is needed because anyone with write access to the result store can swap replies.
        A refusal of an unauthenticated message has an empty batch id.
        """
        match reply:
            case Outcome(refusal=Refusal()):
                is_complete = (
                    self.batch_state is None or not reply.items or self._is_decided_by(reply)
                )
                return is_complete and reply.batch in {"", self.body.get("batch", "")}
            case Outcome():
                return self._requests_grants and self._is_decided_by(reply)
            case Usage() | ServiceInfo():
                ask = "usage" if isinstance(reply, Usage) else "service"
                return self._asks_for(ask) and reply.tenant == self.body["tenant"]
            case BatchState() | Cancelled() | UseStates():
                return self._asks_about_batch(reply) and reply.batch == self.body["batch"]
            case Explanation() | BundleReply():
                return isinstance(reply, Explanation) and self._asks_for("explain")
            case Listening():
                return self._asks_for("listen") and reply.listener == self.body["listener"]

    def is_postponed_by(self, reply: Reply) -> bool:
        """Return true if the reply says that a reopened batch's chunk is not decided yet."""
        match reply:
            case Outcome(refusal=Refusal(code=Code.BATCH_UNKNOWN)):
                return self.batch_state is not None and self.is_answered_by(reply)
        return False

    def with_release_hint(self, reply: Reply) -> Reply:
        """Return the reply; if it refuses the message's form, it says that the service is older.

        This release would not have sent a message that its own parser refuses.
        """
        match reply:
            case Outcome(refusal=Refusal(code=code, field=field) as refusal) if (
                code in _FORM_CODES or (code, field) == _KIND_UNKNOWN
            ):
                changed = {"message": refusal.message + _OLDER_SERVICE}
                return reply.model_copy(update={"refusal": refusal.model_copy(update=changed)})
        return reply

    def item_results(self, outcome: Outcome) -> list[Grant | Refusal]:
        """Return one result per item, given the outcome that answers this message.

        If the outcome refuses all items, each refusal has its item's key and ref.
        """
        refusal = outcome.refusal
        if refusal is None or (self.batch_state is not None and outcome.items):
            return outcome.items
        names = [{"key": item.get("key"), "ref": item.get("ref")} for item in self.items]
        return [refusal.model_copy(update=of_item) for of_item in names]

    def refused_outcome(self, refusal: Refusal) -> Outcome:
        """Return the outcome of a message that is refused without being sent."""
        batch_id = self.body.get("batch")
        batch_id = batch_id if isinstance(batch_id, str) else ""  # a caller may pass anything
        return Outcome(batch=batch_id, chunk=self.chunk_number, status="refused", refusal=refusal)

    def _asks_for(self, ask: str) -> bool:
        return bool(self.body.get("ask", "grants") == ask)

    def _asks_about_batch(self, reply: BatchState | Cancelled | UseStates) -> bool:
        match reply:
            case BatchState():
                return self._asks_for("batch") and "chunk" not in self.body
            case Cancelled():
                return self._asks_for("cancel")
            case UseStates():
                items = [state.item for state in reply.items]
                return self._asks_for("status") and items == self.body.get("items", [])

    @property
    def _requests_grants(self) -> bool:
        asks_for_grants = self._asks_for("grants") or self._asks_for("reissue")
        return asks_for_grants or self.batch_state is not None

    def _is_decided_by(self, outcome: Outcome) -> bool:
        is_same_chunk = (outcome.batch, outcome.chunk) == (self.body["batch"], self.chunk_number)
        is_complete = self._decided_count(outcome) == len(self.items)
        return is_same_chunk and is_complete and not self._grants_other_objects(outcome)

    def _grants_other_objects(self, outcome: Outcome) -> bool:
        """Return true for the stored result of another request with the same batch id.

        Grants must have the ids of this request, too: expired ones are issued again by their ids.
        """
        state = self.batch_state
        size = self.body.get("chunk_size", 0) if state is None else state.chunk_size
        ids = (grant_id(outcome.batch, n) for n in count(self.chunk_number * size))
        numbered = zip(outcome.items, ids, strict=False)
        if any(isinstance(result, Grant) and result.id != name for result, name in numbered):
            return True
        pairs = zip(outcome.items, self.body.get("items", ()), strict=False)  # reopened: no items
        return any(
            isinstance(result, Grant)
            and (result.key, result.part) != (item["key"], item.get("part"))
            for result, item in pairs
        )

    def _decided_count(self, outcome: Outcome) -> int:
        """Count the items that an outcome decides; with a manifest it lists none of them."""
        if "manifest" in self.body and not outcome.items:
            return (outcome.issued or 0) + (outcome.refused or 0)
        return len(outcome.items)


def build_pending_message(
    task_id: str, body: dict[str, Any], batch_state: BatchState | None = None
) -> PendingMessage:
    """Return a pending message, with a refusal if the service would refuse it as malformed."""
    parsed = parse_message(body)
    refusal = parsed if isinstance(parsed, Refusal) else None
    return PendingMessage(task_id, body, refusal, batch_state)


def build_bundle(messages: Sequence[PendingMessage]) -> PendingMessage:
    """Return the message that carries these requests of one tenant, under a task id of its own."""
    digest = sha256(" ".join(message.task_id for message in messages).encode()).hexdigest()
    bodies = [message.body for message in messages]
    body = {"v": VERSION, "ask": "bundle", "tenant": bodies[0]["tenant"], "messages": bodies}
    return PendingMessage(BUNDLE_TASK_PREFIX + digest, body)
