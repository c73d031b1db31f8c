"""Tracks the messages in flight, and decides which request may send its next message. Pure."""

from collections import deque
from collections.abc import Iterator
from typing import Literal, NamedTuple

from valetkey.crypto.codec import DecodedResult
from valetkey.delivery.pending_request import PendingRequest
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.wire.pending import PendingMessage
from valetkey.wire.unavailable import Unavailable

HEAD_START_SECONDS = 0.05  # for the service to answer a request's first messages before the rest
_HEAD_START_MESSAGES = 4  # enough for the workers of a small machine that also runs the client

ResultKind = Literal["ignored", "unavailable", "unusable", "accepted"]


class Send(NamedTuple):
    """Send a message of a request."""

    request: PendingRequest
    message: PendingMessage


class _HeadStart(NamedTuple):
    """Limits a request to its first messages, until a time or until the first one is answered."""

    ends_at: float
    first_task_id: str


class InFlight:
    """Tracks unanswered messages, and decides which request sends its next message."""

    def __init__(self, timer: RetransmitTimer) -> None:
        self._timer = timer
        self._unsent: dict[PendingRequest, None] = {}  # in the order of their turns
        self._new: set[PendingRequest] = set()
        self._head_starts: dict[PendingRequest, _HeadStart] = {}
        self._resumed: deque[str] = deque()
        self._sends: dict[str, Send] = {}
        self._stuck_task_id: str | None = None

    @property
    def is_idle(self) -> bool:
        """True if no request has a message to send or waits for a reply."""
        return not self._unsent and not self._sends

    @property
    def requests(self) -> set[PendingRequest]:
        """All requests that are not complete."""
        return {*self._unsent, *(send.request for send in self._sends.values())}

    @property
    def unanswered(self) -> list[str]:
        """The task ids of the messages that were sent and wait for a reply."""
        return self._timer.unanswered

    @property
    def has_unanswered(self) -> bool:
        """True if a message was sent and waits for a reply."""
        return self._timer.has_unanswered

    def request_of(self, task_id: str) -> PendingRequest | None:
        """Return the request of a message; None if it was answered before or given up."""
        return self._sends[task_id].request if task_id in self._sends else None

    def add(self, request: PendingRequest) -> None:
        """Add a request, or resume one that was given up."""
        self._stuck_task_id = None  # the caller tries again, so nothing holds back its messages
        if not request.is_fully_sent and request not in self._unsent:
            self._unsent[request] = None
            self._new.add(request)
        for message in list(request.unanswered.values()):
            if message.task_id not in self._sends and self._register(request, message):
                self._resumed.append(message.task_id)

    def drop(self, request: PendingRequest) -> list[str]:
        """Give up a request; return the task ids of its messages without a reply."""
        self._unsent.pop(request, None)
        self._new.discard(request)
        self._head_starts.pop(request, None)
        task_ids = [task_id for task_id, send in self._sends.items() if send.request is request]
        for task_id in task_ids:
            self._remove(task_id)
        return task_ids

    def next_resumed(self, now: float) -> Send | None:
        """Return the next message of a resumed request that is to be sent again at once.

        While one of them cannot be sent, the others wait until they are due.
        """
        while self._resumed:
            task_id = self._resumed.popleft()
            if task_id not in self._sends:
                continue
            if not self._is_stuck:
                return self._sends[task_id]
            self._timer.record_send(task_id, now)
        return None

    def turns(self) -> Iterator[PendingRequest]:
        """Yield the requests that may send a new message, in turn, while the window has room.

        A message that could not be sent holds back all new ones: it is tried again first, once due.
        """
        for request in tuple(self._unsent):
            if not self._timer.has_room or self._is_stuck:
                return
            yield request

    def unread_limit(self, request: PendingRequest, limit: float, now: float) -> float:
        """Return how many messages of a request may be sent before their replies are read.

        This is `limit`, or less during the head start: to build and send a whole window takes
        longer than to answer one message, and the workers may share the client's machine.
        """
        head_start = self._head_starts.get(request)
        if head_start is None or now >= head_start.ends_at:
            return limit
        return min(_HEAD_START_MESSAGES, limit)

    def enter(self, request: PendingRequest, message: PendingMessage, now: float) -> Send | None:
        """Add a new message of a request; return None if it is refused without being sent."""
        # To the end of the line, or a batch that is read as it comes would take the whole window.
        self._unsent.pop(request, None)
        if not request.is_fully_sent:
            self._unsent[request] = None
        self._update_head_start(request, message, now)
        return self._register(request, message)

    def record_send(self, task_id: str, now: float, *, is_stuck: bool = False) -> None:
        """Record that a message was sent, for the first time or again; or that it is stuck.

        A stuck message could not be sent. The next message that is sent ends this state.
        """
        self._stuck_task_id = task_id if is_stuck else None
        if task_id in self._sends:  # else its request was given up in the meantime
            self._timer.record_send(task_id, now)

    def due(self, now: float) -> Iterator[Send]:
        """Yield the messages to send again, except those that are removed in the meantime."""
        for task_id in self._timer.due(now):
            if task_id in self._sends:
                yield self._sends[task_id]

    def next_due(self, now: float) -> float:
        """Return the time of the next send if no reply arrives until then; infinity is never."""
        self._head_starts = {
            request: head_start
            for request, head_start in self._head_starts.items()
            if head_start.ends_at > now
        }
        ends = (head_start.ends_at for head_start in self._head_starts.values())
        return min((self._timer.next_due(), *ends))

    def receive(self, task_id: str, result: DecodedResult, now: float) -> ResultKind:
        """Record the result of a task; an unusable one must be removed from the store."""
        if result == "working" or task_id not in self._sends:
            return "ignored"
        request, message = self._sends[task_id]
        if isinstance(result, Unavailable):
            request.service_outages.record(task_id, result, now)
            return "unavailable" if result.retry_in is not None else "unusable"
        if result != "failed" and message.is_postponed_by(result):
            request.postponements += 1
            request.service_outages.end()
            self._timer.postpone(task_id, now)
            return "unusable"
        if result == "failed" or not message.is_answered_by(result):
            request.failures += 1  # counts as no reply: the message is sent again when due
            return "unusable"
        self._remove(task_id)
        head_start = self._head_starts.get(request)
        if head_start is not None and head_start.first_task_id == task_id:
            del self._head_starts[request]
        request.service_outages.end()
        request.receive_reply(message, message.with_release_hint(result))
        return "accepted"

    @property
    def _is_stuck(self) -> bool:
        return self._stuck_task_id in self._sends

    def _register(self, request: PendingRequest, message: PendingMessage) -> Send | None:
        refusal = message.refusal or request.closing_refusal
        if refusal is not None:
            request.receive_reply(message, message.refused_outcome(refusal))
            return None
        send = self._sends[message.task_id] = Send(request, message)
        return send

    def _update_head_start(
        self, request: PendingRequest, message: PendingMessage, now: float
    ) -> None:
        if request.is_fully_sent:
            self._head_starts.pop(request, None)
        elif request in self._new:
            self._head_starts[request] = _HeadStart(now + HEAD_START_SECONDS, message.task_id)
        self._new.discard(request)

    def _remove(self, task_id: str) -> None:
        del self._sends[task_id]
        self._timer.remove(task_id)
