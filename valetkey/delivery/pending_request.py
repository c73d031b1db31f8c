"""The requests that a dispatcher delivers. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from valetkey.errors import NoAnswer, ServiceUnavailable
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Reply
from valetkey.wire.unavailable import Unavailable

DEFAULT_TIMEOUT = 30.0  # seconds
HEAD_START_SECONDS = 0.05  # for the service to answer a request's first messages before the rest
_HEAD_START_MESSAGES = 4  # enough for the workers of a small machine that also runs the client


class ServiceOutage(NamedTuple):
    """The service's last hint that it is unavailable, and since when it has said so.

    since is a time of the dispatcher's clock.
    """

    hint: Unavailable
    since: float


class ServiceOutages:
    """The outages that the service reports in hints to the messages of one request.

    current is set from the first hint until the next answer.
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

    failures counts the results that were no valid reply, postponements the replies that decided
    nothing yet. unanswered has the messages without a reply, by task id. service_outages
    has what the service says about not answering them.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.postponements = 0
        self.service_outages = ServiceOutages()
        self.unanswered: dict[str, PendingMessage] = {}

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


class _HeadStart(NamedTuple):
    """Limits a request to its first messages, until a time or until the first one is answered."""

    ends_at: float
    first_task_id: str


class HeadStarts:
    """Limits how many messages new requests may send at first.

    To build and send a whole window takes longer than to answer one message, and the workers may
    share the client's machine.
    """

    def __init__(self) -> None:
        self._new: set[PendingRequest] = set()
        self._running: dict[PendingRequest, _HeadStart] = {}

    def add(self, request: PendingRequest) -> None:
        """Add a request that has messages to send."""
        self._new.add(request)

    def begin(self, request: PendingRequest, message: PendingMessage, now: float) -> None:
        """Record that a request sends a message: its first one begins the head start."""
        if request.is_fully_sent:
            self._running.pop(request, None)
        elif request in self._new:
            self._running[request] = _HeadStart(now + HEAD_START_SECONDS, message.task_id)
        self._new.discard(request)

    def end(self, request: PendingRequest, task_id: str) -> None:
        """Record a reply to a message of a request: that to the first one ends the head start."""
        if request in self._running and self._running[request].first_task_id == task_id:
            del self._running[request]

    def drop(self, request: PendingRequest) -> None:
        """Remove a request."""
        self._new.discard(request)
        self._running.pop(request, None)

    def limit(self, request: PendingRequest, limit: float, now: float) -> float:
        """Return how many messages a request may send before their replies are read."""
        head_start = self._running.get(request)
        if head_start is None or now >= head_start.ends_at:
            return limit
        return min(_HEAD_START_MESSAGES, limit)

    def ends(self, now: float) -> Iterator[float]:
        """Yield the times at which head starts end, and forget those that have ended."""
        self._running = {
            request: head_start
            for request, head_start in self._running.items()
            if head_start.ends_at > now
        }
        return (head_start.ends_at for head_start in self._running.values())


def queue_to_ask(request: PendingRequest) -> str | None:
    """Return the queue whose length tells why a request has no reply; None if that is known."""
    if request.service_outages.current or request.postponements or request.failures:
        return None
    return next((message.queue for message in request.unanswered.values()), None)


def no_answer_error(
    request: PendingRequest, seconds: float, queue_length: int | None = None
) -> NoAnswer:
    """Return the error for a request without a reply after some seconds, with a likely cause.

    queue_length is the number of messages in its queue; None if that is unknown.
    """
    if request.service_outages.current is not None:
        hint = request.service_outages.current.hint
        return ServiceUnavailable(
            f"no answer within {seconds:g} s{request.unanswered_hint}: {hint.subject}; the request "
            "may still be decided: retry with the same handle or batch id",
            retry_in=hint.retry_in,
        )
    cause = _silence(queue_length)
    if request.postponements:
        cause = "the service has not decided on them, as they have not reached it"
    if request.failures:
        cause = "the worker's log says why it failed"
    return NoAnswer(f"no answer within {seconds:g} s{request.unanswered_hint}: {cause}")


def _silence(queue_length: int | None) -> str:
    if queue_length is None:
        return "is a worker running? `python -m worker doctor` finds out, where the service runs"
    if queue_length:
        return (
            "no worker takes it from the queue: is one running? `python -m worker doctor` finds "
            "out, where the service runs"
        )
    return (
        "a worker took it from the queue and has not answered: its log says more, and so does "
        "`python -m worker doctor`, where the service runs"
    )
