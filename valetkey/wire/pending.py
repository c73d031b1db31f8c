"""Messages on their way, and which replies answer them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from valetkey.wire.messages import (
    BULK_QUEUE,
    INTERACTIVE_QUEUE,
    MAX_INTERACTIVE_ITEMS,
    Cancelled,
    Explanation,
    Grant,
    Outcome,
    Reply,
    Usage,
)
from valetkey.wire.parsing import parse_message
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.states import BatchState


@dataclass(frozen=True)
class PendingMessage:
    """One message, named as the task that answers it, and why it need not be sent.

    of is the batch that a chunk is asked of again.
    """

    name: str
    message: dict[str, Any]
    refusal: Refusal | None = None
    of: BatchState | None = None

    @property
    def number(self) -> int:
        """Which chunk of its batch it is."""
        number: int = self.message.get("chunk", 0)
        return number

    @property
    def queue(self) -> str:
        """Where it goes: what somebody may be waiting for does not queue behind bulk."""
        total = self.message.get("total", 1) if self.of is None else self.of.total
        return INTERACTIVE_QUEUE if total <= MAX_INTERACTIVE_ITEMS else BULK_QUEUE

    @property
    def keys(self) -> Sequence[str | None]:
        """The keys of its items, in order; of a chunk that is asked again they are not known."""
        if self.of is None:
            return [item["key"] for item in self.message["items"]]
        return [None] * min(self.of.chunk_size, self.of.total - self.number * self.of.chunk_size)

    def is_answered_by(self, reply: Reply) -> bool:
        """Whether a reply is to this message, and decides all that it asks.

        Whoever can write to the result store can put a reply to one message in another's place.
        What is refused before anybody is known to have asked names no batch.
        """
        said = self.message
        match reply:
            case Outcome(refusal=Refusal()):
                is_its = self.of is None or not reply.items or self._is_decided_by(reply)
                return is_its and reply.batch in {"", said.get("batch", "")}
            case Outcome():
                return self._asks_for_grants and self._is_decided_by(reply)
            case Usage():
                return self._asks("usage") and reply.tenant == said["tenant"]
            case Cancelled():
                return self._asks("cancel") and reply.batch == said["batch"]
            case BatchState():
                asks = self._asks("batch") and "chunk" not in said
                return asks and reply.batch == said["batch"]
            case Explanation():
                return self._asks("explain")

    def is_put_off_by(self, reply: Reply) -> bool:
        """Whether a reply says that the chunk it asks for again is not decided yet."""
        match reply:
            case Outcome(refusal=Refusal(code=Code.BATCH_UNKNOWN)):
                return self.of is not None and self.is_answered_by(reply)
        return False

    def answers(self, outcome: Outcome) -> list[Grant | Refusal]:
        """The answers to its items, where an outcome answers it; refusals with their keys."""
        refusal = outcome.refusal
        if refusal is None or (self.of is not None and outcome.items):
            return outcome.items
        return [refusal.model_copy(update={"key": key}) for key in self.keys]

    def refused(self, refusal: Refusal) -> Outcome:
        """Its outcome, where it need not be sent to be refused."""
        batch = self.message.get("batch", "")
        return Outcome(batch=batch, chunk=self.number, status="refused", refusal=refusal)

    def _asks(self, ask: str) -> bool:
        return bool(self.message.get("ask", "grants") == ask)

    @property
    def _asks_for_grants(self) -> bool:
        return self._asks("grants") or self.of is not None

    def _is_decided_by(self, outcome: Outcome) -> bool:
        is_its = (outcome.batch, outcome.chunk) == (self.message["batch"], self.number)
        return is_its and self._told(outcome) == len(self.keys)

    def _told(self, outcome: Outcome) -> int:
        """How many items it decides: where there is a manifest, it only counts them."""
        if "manifest" in self.message and not outcome.items:
            return (outcome.issued or 0) + (outcome.refused or 0)
        return len(outcome.items)


def pending_message(
    name: str, message: dict[str, Any], of: BatchState | None = None
) -> PendingMessage:
    """Put a message under the name of its task; what would not be understood is refused already."""
    answer = parse_message(message)
    return PendingMessage(name, message, answer if isinstance(answer, Refusal) else None, of)
