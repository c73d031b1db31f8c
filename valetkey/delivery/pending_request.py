"""The requests that a dispatcher delivers. Pure."""

from typing import Protocol

from valetkey.errors import NoAnswer
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Reply


class PendingRequest(Protocol):
    """A request of one or more messages, and the replies to them.

    failures counts the results that were no valid reply, postponements the replies that decided
    nothing yet. unanswered has the messages without a reply, by task id.
    """

    failures: int
    postponements: int
    unanswered: dict[str, PendingMessage]

    @property
    def closing_refusal(self) -> Refusal | None:
        """The refusal that all unsent messages get; None while messages are to be sent."""

    @property
    def unanswered_hint(self) -> str:
        """The number of items without a result, as the end of an error message; may be empty."""

    @property
    def is_fully_sent(self) -> bool:
        """True once next_message has returned the last message."""

    def next_message(self, unread_limit: float) -> PendingMessage | None:
        """Return the next message to send, or None if there is none yet.

        It returns none while the reader has not read the replies to `unread_limit` messages.
        """

    def receive_reply(self, message: PendingMessage, reply: Reply) -> None:
        """Record the reply to a message."""


def no_answer_error(request: PendingRequest, seconds: float) -> NoAnswer:
    """Return the error for a request without a reply after some seconds, with a likely cause."""
    cause = "is a worker running, and do its database and storage respond?"
    if request.postponements:
        cause = "the service has not decided on them, as they have not reached it"
    if request.failures:
        cause = "the worker's log says why it failed"
    return NoAnswer(f"no answer within {seconds:g} s{request.unanswered_hint}: {cause}")
