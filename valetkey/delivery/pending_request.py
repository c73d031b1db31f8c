"""The requests that a dispatcher delivers. Pure."""

from abc import ABC, abstractmethod
from datetime import datetime
from typing import NamedTuple, Self

from valetkey.delivery.tracing import current_context
from valetkey.errors import NoAnswer, ServiceUnavailable
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Reply
from valetkey.wire.unavailable import Unavailable

DEFAULT_TIMEOUT = 30.0  # seconds
HEAD_START_SECONDS = 0.05  # for the service to answer a request's first messages before the rest


class HeadStart(NamedTuple):
    """Limits a request to a few messages, until a time or until the first one is answered.

    To build and send a whole window takes longer than to answer one message, and the workers may
    share the client's machine.
    """

    ends_at: float
    first_task_id: str

    @classmethod
    def begin(cls, first_task_id: str, now: float) -> Self:
        """Return the head start of a request that sends its first message now."""
        return cls(now + HEAD_START_SECONDS, first_task_id)


NOTHING_SENT = HeadStart(float("-inf"), "")
"""The head start of a request whose first message is to be sent."""


class ServiceOutage(NamedTuple):
    """The service's last hint that it is unavailable, and since when it has said so.

    since is a time of the dispatcher's clock.
    """

    hint: Unavailable
    since: float


class ServiceOutages:
    """Records the hints of the service that it cannot answer the messages of one request.

    current is the outage that they report: set by the first hint, and None again after an answer.
    """

    def __init__(self) -> None:
        self.current: ServiceOutage | None = None
        self._hints: dict[str, Unavailable] = {}  # by task id

    def record(self, task_id: str, hint: Unavailable, now: float) -> None:
        """Record a hint. One that was read before is no news: an answer may be newer."""
        if self._hints.get(task_id) == hint:
            return
        self._hints[task_id] = hint
        self.current = ServiceOutage(hint, now if self.current is None else self.current.since)

    def end(self) -> None:
        """Record an answer."""
        self.current = None


class PendingRequest(ABC):
    """A request of one or more messages, and the replies to them.

    deadline is the time after which the service refuses its messages; None if there is none.
    failures counts the results that were no valid reply, postponements the replies that decided
    nothing yet. unanswered has the messages without a reply, by task id. service_outages
    has what the service says about not answering them. head_start is None once it is over.
    trace_origin is the context of the caller's span, if it is traced.
    """

    deadline: datetime | None = None

    def __init__(self) -> None:
        self.failures = 0
        self.postponements = 0
        self.service_outages = ServiceOutages()
        self.unanswered: dict[str, PendingMessage] = {}
        self.head_start: HeadStart | None = None
        self.trace_origin = current_context()

    @property
    def closing_refusal(self) -> Refusal | None:
        """The refusal that all unsent messages get; None while messages are to be sent."""
        return None

    @property
    def unanswered_hint(self) -> str:
        """The number of items without a result, as the end of an error message; may be empty."""
        return ""

    @property
    @abstractmethod
    def is_fully_sent(self) -> bool:
        """True once next_message has returned the last message."""

    @abstractmethod
    def next_message(self, unread_limit: float) -> PendingMessage | None:
        """Return the next message to send, or None if there is none yet.

        It returns none while the reader has not read the replies to `unread_limit` messages.
        """

    @abstractmethod
    def receive_reply(self, message: PendingMessage, reply: Reply) -> None:
        """Record the reply to a message."""


def no_answer_error(
    request: PendingRequest,
    seconds: float,
    *,
    is_waiting: bool | None = None,
    is_served: bool = False,
) -> NoAnswer:
    """Return the error for a request without a reply after some seconds, with a likely cause.

    is_waiting says that its message still waits in the queue; None if that is unknown. is_served
    says that workers have answered other requests of the client in the meantime.
    """
    if request.service_outages.current is not None:
        hint = request.service_outages.current.hint
        return ServiceUnavailable(
            f"no answer within {seconds:g} s{request.unanswered_hint}: {hint.subject}; the request "
            "may still be decided: retry with the same handle or batch id",
            retry_in=hint.retry_in,
        )
    cause = _silence(is_waiting=is_waiting, is_served=is_served)
    if request.postponements:
        cause = "the service has not decided on them, as they have not reached it"
    if request.failures:
        cause = "the worker's log says why it failed"
    return NoAnswer(f"no answer within {seconds:g} s{request.unanswered_hint}: {cause}")


def _silence(*, is_waiting: bool | None, is_served: bool) -> str:
    if is_waiting is None:
        return "is a worker running? `python -m worker doctor` finds out, where the service runs"
    if is_waiting and is_served:
        return (
            "it still waited in the queue, as workers are busy: they answered other requests; "
            "`python -m worker doctor` says more, where the service runs"
        )
    if is_waiting:
        return (
            "no worker takes it from the queue: is one running? `python -m worker doctor` finds "
            "out, where the service runs"
        )
    return (
        "a worker took it from the queue and has not answered: its log says more, and so does "
        "`python -m worker doctor`, where the service runs"
    )
