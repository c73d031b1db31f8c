"""Messages on their way, and which replies answer them. Pure."""

from dataclasses import dataclass
from typing import Any

from valetkey.messages import (
    BULK,
    LARGEST_INTERACTIVE,
    QUEUE,
    Cancelled,
    Explanation,
    Outcome,
    Reply,
    Usage,
)
from valetkey.reading import read
from valetkey.refusals import Refusal


@dataclass(frozen=True)
class Letter:
    """One message, named as the task that answers it, and why it need not be sent."""

    name: str
    message: dict[str, Any]
    refusal: Refusal | None = None

    @property
    def number(self) -> int:
        """Which chunk of its batch it is."""
        number: int = self.message.get("chunk", 0)
        return number

    @property
    def queue(self) -> str:
        """Where it goes: what somebody may be waiting for does not queue behind bulk."""
        return QUEUE if self.message.get("total", 1) <= LARGEST_INTERACTIVE else BULK

    @property
    def keys(self) -> list[str]:
        """The keys of its items, in order."""
        return [item["key"] for item in self.message["items"]]

    def is_answered_by(self, reply: Reply) -> bool:
        """Whether a reply is to this message, and decides all that it asks.

        Whoever can write to the result store can put a reply to one message in another's place.
        What is refused before anybody is known to have asked names no batch.
        """
        said = self.message
        match reply:
            case Outcome(refusal=Refusal()):
                return reply.batch in {"", said.get("batch", "")}
            case Outcome():
                return self._asks("grants") and self._is_decided_by(reply)
            case Usage():
                return self._asks("usage") and reply.tenant == said["tenant"]
            case Cancelled():
                return self._asks("cancel") and reply.batch == said["batch"]
            case Explanation():
                return self._asks("explain")

    def refused(self, refusal: Refusal) -> Outcome:
        """Its outcome, where it need not be sent to be refused."""
        batch = self.message.get("batch", "")
        return Outcome(batch=batch, chunk=self.number, status="refused", refusal=refusal)

    def _asks(self, ask: str) -> bool:
        return bool(self.message.get("ask", "grants") == ask)

    def _is_decided_by(self, outcome: Outcome) -> bool:
        said = self.message
        is_its = (outcome.batch, outcome.chunk) == (said["batch"], said["chunk"])
        return is_its and len(outcome.items) == len(said["items"])


def letter(name: str, message: dict[str, Any]) -> Letter:
    """Put a message under the name of its task; what would not be understood is refused already."""
    answer = read(message)
    return Letter(name, message, answer if isinstance(answer, Refusal) else None)
