"""Tracks the messages in flight, and decides which request may send its next message. Pure.

A bundle without a reply is sent again as it is. Only if the service refuses it, or fails on it, is
it sent as two halves: a message that the service fails on delays ever fewer others.
"""

from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Literal, NamedTuple

from valetkey.crypto.codec import DecodedResult
from valetkey.delivery.pending_request import NOTHING_SENT, HeadStart, PendingRequest
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.wire.messages import MAX_BUNDLE_MESSAGES
from valetkey.wire.messages import task_id as chunk_task_id
from valetkey.wire.pending import PendingMessage, build_bundle
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import BundleReply, Reply
from valetkey.wire.unavailable import Unavailable

_HEAD_START_MESSAGES = 4  # enough for the workers of a small machine that also runs the client
_MIN_LIMIT = 32  # messages; halves of so few cost more than several workers gain

_UNDER_WAY = Refusal(
    code=Code.BATCH_CONFLICT,
    field="batch",
    message="this client has a request with the same batch id under way: wait for its handle first",
)

ReadMessage = Callable[[PendingRequest], PendingMessage | None]
"""Returns the next message of a request, or None if there is none yet."""

_Result = Reply | Literal["failed"]
ResultKind = Literal["ignored", "unavailable", "unusable", "accepted"]


class Outbox:
    """The new messages that are read and not sent yet: small ones, and at most one other."""

    def __init__(self) -> None:
        self._small: dict[str, PendingMessage] = {}  # by task id
        self._last: PendingMessage | None = None
        self._limit = _MIN_LIMIT

    def start(self, unanswered: int) -> None:
        """Begin to read, with this number of messages to be answered.

        If they are many, at most half of them go out together, so that several workers share them.
        """
        self._limit = min(max(unanswered // 2, _MIN_LIMIT), MAX_BUNDLE_MESSAGES)

    @property
    def has_room(self) -> bool:
        """True if another message may go out with those that are here."""
        return self._last is None and len(self._small) < self._limit

    def add(self, message: PendingMessage) -> None:
        """Add a message that was read."""
        if not message.may_be_bundled:
            self._last = message
        else:
            self._small[message.task_id] = message

    def take(self, unanswered: Container[str]) -> list[PendingMessage]:
        """Take the messages that go out next, without those that were given up."""
        messages = [message for task_id, message in self._small.items() if task_id in unanswered]
        self._small = {}
        if not messages and self._last is not None:
            last, self._last = self._last, None
            return [last] if last.task_id in unanswered else []
        return messages


class Bundles:
    """The bundles that were sent, each until all of its messages are answered or given up."""

    def __init__(self) -> None:
        self._bundles: dict[str, PendingMessage] = {}
        self._members: dict[str, dict[str, None]] = {}  # task ids of messages, by that of a bundle
        self._bundle_ids: dict[str, str] = {}

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._bundles

    def __getitem__(self, bundle_id: str) -> PendingMessage:
        return self._bundles[bundle_id]

    def has_message(self, task_id: str) -> bool:
        """Return true for a message that waits for the reply to a bundle."""
        return task_id in self._bundle_ids

    def bundle_of(self, task_id: str) -> str | None:
        """Return the task id of the bundle that a message was sent in, if any."""
        return self._bundle_ids.get(task_id)

    def form(self, messages: Sequence[PendingMessage]) -> PendingMessage:
        """Return a new bundle of these messages."""
        bundle = build_bundle(messages)
        task_ids = [message.task_id for message in messages]
        self._bundles[bundle.task_id] = bundle
        self._members[bundle.task_id] = dict.fromkeys(task_ids)
        self._bundle_ids |= dict.fromkeys(task_ids, bundle.task_id)
        return bundle

    def unanswered(self, bundle_id: str) -> list[str]:
        """Return the task ids of a bundle's messages without a reply."""
        return list(self._members.get(bundle_id, ()))

    def remove(self, task_id: str) -> str | None:
        """Remove a message; return the task id of its bundle if that was the last one in it."""
        bundle_id = self._bundle_ids.pop(task_id, None)
        if bundle_id is None:
            return None
        del self._members[bundle_id][task_id]
        if self._members[bundle_id]:
            return None
        del self._members[bundle_id], self._bundles[bundle_id]
        return bundle_id


class Send(NamedTuple):
    """Send a message of a request. That of a bundle is any request in it."""

    request: PendingRequest
    message: PendingMessage


class InFlight:
    """Tracks unanswered messages, and decides which request sends its next message."""

    def __init__(self, timer: RetransmitTimer) -> None:
        self._timer = timer
        self._unsent: dict[PendingRequest, None] = {}  # in the order of their turns
        self._resumed: deque[str] = deque()
        self._sends: dict[str, Send] = {}
        self._outbox = Outbox()
        self._bundles = Bundles()
        self._ended: list[str] = []
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

    def requests_of(self, task_id: str) -> list[PendingRequest]:
        """Return the requests of a message that are neither answered nor given up."""
        members = self._bundles.unanswered(task_id) or [task_id]
        return [self._sends[member].request for member in members if member in self._sends]

    def carrier_of(self, request: PendingRequest) -> str | None:
        """Return the task id of the first message of a request, or of its bundle; None if none."""
        task_id = next(iter(request.unanswered), None)
        return None if task_id is None else self._bundles.bundle_of(task_id) or task_id

    def add(self, request: PendingRequest) -> None:
        """Add a request, or resume one that was given up."""
        self._stuck_task_id = None  # the caller tries again, so nothing holds back its messages
        if not request.is_fully_sent and request not in self._unsent:
            self._unsent[request] = None
            request.head_start = NOTHING_SENT
        for message in list(request.unanswered.values()):
            if message.task_id not in self._sends and self._register(request, message):
                self._resumed.append(message.task_id)

    def drop(self, request: PendingRequest) -> list[str]:
        """Give up a request; return the tasks whose results are not listened for any more."""
        self._unsent.pop(request, None)
        request.head_start = None
        task_ids = [task_id for task_id, send in self._sends.items() if send.request is request]
        for task_id in task_ids:
            self._remove(task_id)
        return self._take_ended()

    def read_new(self, read: ReadMessage, now: float) -> list[PendingRequest]:
        """Read new messages of the requests in turn, until there is enough for `next_new`.

        Those of resumed requests come first. Returns the requests that had a message refused
        without being sent. Nothing is read while the window is full, or a message could not be
        sent: it is tried again first, once due.
        """
        refused = []
        self._outbox.start(len(self._unsent) + len(self._sends))
        while self._resumed and self._has_room:
            send = self._sends.get(self._resumed.popleft())
            if send is not None:
                self._outbox.add(send.message)
        for request in tuple(self._unsent):
            while self._has_room and (message := read(request)) is not None:
                if not self._enter(request, message, now):
                    refused.append(request)
        return refused

    def next_new(self) -> Send | None:
        """Return the new message that goes out next; call it until it returns None."""
        messages = [] if self._is_stuck else self._outbox.take(self._sends)
        if not messages:
            return None
        send = self._sends[messages[0].task_id]
        return send if len(messages) == 1 else Send(send.request, self._bundles.form(messages))

    def unread_limit(self, request: PendingRequest, limit: float, now: float) -> float:
        """Return how many messages of a request may be sent before their replies are read."""
        head_start = request.head_start
        is_limited = head_start is not None and now < head_start.ends_at
        return min(limit, _HEAD_START_MESSAGES) if is_limited else limit

    def record_send(self, task_id: str, now: float, *, is_stuck: bool = False) -> None:
        """Record that a message was sent, for the first time or again; or that it is stuck.

        A stuck message could not be sent. The next message that is sent ends this state.
        """
        self._stuck_task_id = task_id if is_stuck else None
        send = self._find_send(task_id)
        if send is None:
            return  # its request was given up in the meantime
        record = self._timer.record_failed_send if is_stuck else self._timer.record_send
        record(task_id, send.message.queue, now)

    def resends(self, now: float) -> Iterator[Send]:
        """Yield the messages to send again, except those that are removed in the meantime.

        Stop at the first one that cannot be sent: each try may take seconds.
        """
        for task_id in self._timer.due(now):
            if (send := self._find_send(task_id)) is not None:
                yield send

    def next_due(self, now: float) -> float:
        """Return the time of the next send if no reply arrives until then; infinity is never."""
        head_starts = [each.head_start for each in self._unsent if each.head_start is not None]
        ends = [head_start.ends_at for head_start in head_starts if head_start.ends_at > now]
        return min([self._timer.next_due(), *ends])

    def receive(self, task_id: str, result: DecodedResult, now: float) -> ResultKind:
        """Record the result of a task; an unusable one must be removed from the store."""
        if result == "working" or not self._is_waiting(task_id):
            return "ignored"
        if isinstance(result, Unavailable):
            for request in self.requests_of(task_id):
                request.service_outages.record(task_id, result, now)
            if result.retry_in is not None:
                return "unavailable"  # and no progress: what was sent before it is not answered
        self._timer.record_result(task_id, now)
        if isinstance(result, Unavailable):
            self._timer.record_given_up(task_id, now)
            return "unusable"
        if task_id in self._bundles:
            self._receive_bundle(task_id, result, now)
            return "accepted"
        return self._receive_single(task_id, result, now)

    def _receive_single(self, task_id: str, result: _Result, now: float) -> ResultKind:
        request, message = self._sends[task_id]
        if result != "failed" and message.is_postponed_by(result):
            request.postponements += 1
            request.service_outages.end()
            self._timer.postpone(task_id, now)
            return "unusable"
        if result == "failed" or not message.is_answered_by(result):
            request.failures += 1  # counts as no reply: the message is sent again when due
            return "unusable"
        self._accept(task_id, result)
        return "accepted"

    def _receive_bundle(self, bundle_id: str, result: _Result, now: float) -> None:
        """Record the replies to a bundle's messages, and send those without one at once.

        Each of these goes out alone. If there is no reply at all, they go out as two halves.
        """
        members, queue = self._bundles.unanswered(bundle_id), self._bundles[bundle_id].queue
        rest = dict.fromkeys(members)
        for reply in result.replies if isinstance(result, BundleReply) else ():
            task_id = chunk_task_id(reply.batch, reply.chunk)
            if task_id in rest and self._sends[task_id].message.is_answered_by(reply):
                self._accept(task_id, reply)
                del rest[task_id]
        left = [self._sends[task_id].message for task_id in rest]
        size = 1 if len(left) < len(members) else (len(left) + 1) // 2
        for task_id in rest:
            self._leave_bundle(task_id)
        for start in range(0, len(left), size):
            part = left[start : start + size]
            message = part[0] if len(part) == 1 else self._bundles.form(part)
            self._timer.schedule(message.task_id, queue, now)

    def _accept(self, task_id: str, reply: Reply) -> None:
        request, message = self._sends[task_id]
        self._remove(task_id)
        if request.head_start is not None and request.head_start.first_task_id == task_id:
            request.head_start = None
        request.service_outages.end()
        request.receive_reply(message, message.with_release_hint(reply))

    @property
    def _is_stuck(self) -> bool:
        return self._stuck_task_id is not None and self._is_waiting(self._stuck_task_id)

    @property
    def _has_room(self) -> bool:
        return not self._is_stuck and self._timer.has_room and self._outbox.has_room

    def _is_waiting(self, task_id: str) -> bool:
        return task_id in self._sends or task_id in self._bundles

    def _find_send(self, task_id: str) -> Send | None:
        """Return a message or bundle that waits for a reply; None if it does not."""
        if task_id in self._bundles:
            return Send(self.requests_of(task_id)[0], self._bundles[task_id])
        return self._sends.get(task_id)

    def _enter(self, request: PendingRequest, message: PendingMessage, now: float) -> bool:
        """Add a new message of a request; return false if it is refused without being sent."""
        # To the end of the line, or a batch that is read as it comes would take the whole window.
        self._unsent.pop(request, None)
        if not request.is_fully_sent:
            self._unsent[request] = None
        if request.is_fully_sent:
            request.head_start = None
        elif request.head_start is NOTHING_SENT:
            request.head_start = HeadStart.begin(message.task_id, now)
        if not self._register(request, message):
            return False
        self._outbox.add(message)
        return True

    def _register(self, request: PendingRequest, message: PendingMessage) -> bool:
        twin_refusal = _UNDER_WAY if message.task_id in self._sends else None
        refusal = message.refusal or request.closing_refusal or twin_refusal
        if refusal is not None:
            request.receive_reply(message, message.refused_outcome(refusal))
            return False
        self._sends[message.task_id] = Send(request, message)
        return True

    def _take_ended(self) -> list[str]:
        """Return the task ids whose results are of no use any more, once each."""
        ended, self._ended = self._ended, []
        return ended

    def _remove(self, task_id: str) -> None:
        del self._sends[task_id]
        if self._timer.remove(task_id) or not self._bundles.has_message(task_id):
            self._ended.append(task_id)
        self._leave_bundle(task_id)

    def _leave_bundle(self, task_id: str) -> None:
        bundle_id = self._bundles.remove(task_id)
        if bundle_id is not None:
            self._timer.remove(bundle_id)
            self._ended.append(bundle_id)
