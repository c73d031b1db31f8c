"""Delivers requests in the caller's own thread: sends, listens, and sends again."""

import logging
import time
from collections.abc import Callable, Sequence

from valetkey.crypto.codec import Codec
from valetkey.delivery.engine import (
    POLL_INTERVAL,
    ClearResult,
    CompleteTask,
    DeliveryEngine,
    Fail,
    LogOutage,
    ResultAction,
)
from valetkey.delivery.in_flight import Send
from valetkey.delivery.pending_request import PendingRequest, no_answer_error, queue_to_ask
from valetkey.delivery.progress import SingleRequest
from valetkey.delivery.retransmit import DEFAULT_WINDOW, RetransmitTimer
from valetkey.delivery.transport import Transport
from valetkey.errors import BrokerUnreachable, Refused, ValetkeyError
from valetkey.wire.pending import PendingMessage
from valetkey.wire.replies import Outcome, Reply

log = logging.getLogger("valetkey")
_SENDS_PER_LISTEN = 4  # new messages until results are read: more than one, so the window fills


class Dispatcher:
    """Delivers several requests over one transport. It works only while wait() runs.

    The DeliveryEngine decides; this class does the I/O.
    """

    def __init__(
        self,
        transport: Transport,
        codec: Codec,
        timer: RetransmitTimer,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = transport
        self._codec = codec
        self._engine = DeliveryEngine(timer, codec.decode, first_lookup=clock() + POLL_INTERVAL)
        self._clock = clock
        self._sleep = sleep
        self._is_closed = False

    @property
    def is_idle(self) -> bool:
        """True if every request is complete or given up."""
        return self._engine.is_idle

    @property
    def outage(self) -> BrokerUnreachable | None:
        """The error of a server that is unreachable at the moment."""
        return self._engine.outage

    def add(self, request: PendingRequest) -> None:
        """Add a request, or resume one that was given up.

        Raises RuntimeError once closed, unless the request is complete.
        """
        if self._is_closed and (request.unanswered or not request.is_fully_sent):
            raise RuntimeError("the client is closed: create a new one")
        self._engine.add(request)
        while (send := self._engine.next_resumed(self._clock())) is not None:
            self._send(send)

    def give_up(self, request: PendingRequest, seconds: float) -> ValetkeyError:
        """Give up a request after some seconds; return the error with the likely cause."""
        self.drop(request)
        if self.outage is not None:
            return self.outage
        queue = queue_to_ask(request)
        length = None if queue is None else self._transport.queue_length(queue)
        return no_answer_error(request, seconds, length)

    def drop(self, request: PendingRequest) -> None:
        """Give up a request: none of its messages is sent or listened for any more."""
        self._unsubscribe(self._engine.drop(request))

    def wait(
        self,
        is_done: Callable[[], bool],
        timeout: float | None = None,
        unread_limit: float = DEFAULT_WINDOW,
    ) -> bool:
        """Work until is_done(), or for `timeout` seconds; return is_done().

        unread_limit is the number of messages of one request that may be sent before their replies
        are read. Raises what fails for any request: SealedForAnotherKey, UnreadableReply,
        BrokerUnreachable if the broker was never reached, and errors of the items' iterable.
        """
        end = float("inf") if timeout is None else self._clock() + timeout
        while True:
            self._send_new(is_done, unread_limit)
            if not timeout or self._clock() < end:  # a silent server may have used all the time
                self._resend()
            if is_done():
                return True
            now = self._clock()
            if now >= end:
                return False
            # Bounded, as the engine returns infinity while no message waits for a reply.
            until = min(end, now + POLL_INTERVAL, self._engine.listen_until(now))
            self._listen(max(until - now, 0))

    def close(self) -> None:
        """Close the transport and give up all requests."""
        self._is_closed = True
        for request in self._engine.requests:
            self._engine.drop(request)
        self._transport.close()

    def _send_new(self, is_done: Callable[[], bool], unread_limit: float) -> None:
        """Send new messages while there is room, and read results in between."""
        send_count = 0
        while self._send_next(unread_limit):
            send_count += 1
            if send_count % _SENDS_PER_LISTEN == 0:
                self._listen(0)
                if is_done():
                    return

    def _send_next(self, unread_limit: float) -> bool:
        # A message that is left unsent by an error of an iterable is sent by the next call.
        self._engine.read_new(lambda request: self._read(request, unread_limit), self._clock())
        is_sent = False
        while (send := self._engine.next_new()) is not None:
            self._send(send)
            is_sent = True
        return is_sent

    def _read(self, request: PendingRequest, unread_limit: float) -> PendingMessage | None:
        limit = self._engine.unread_limit(request, unread_limit, self._clock())
        try:
            return request.next_message(limit)
        except BaseException:  # the caller's own iterable failed: the batch cannot be completed
            self.drop(request)
            raise

    def _resend(self) -> None:
        for send in self._engine.resends(self._clock()):
            if not self._send(send):
                return

    def _send(self, send: Send) -> bool:
        message = send.message
        error: BrokerUnreachable | None = None
        failures: list[Fail] = []
        is_sent = False
        try:
            argument = self._codec.encode(message.body)
            self._transport.send(message.task_id, argument, message.queue)
            is_sent = True
        except BrokerUnreachable as unreachable:
            error = unreachable
        finally:  # reported even if Ctrl-C interrupts it, or the message would never be sent again
            if is_sent:
                self._engine.message_sent(message.task_id, self._clock())
            else:
                failures = self._engine.send_failed(send, error, self._clock())
        for failure in failures:
            self.drop(failure.request)
        if failures:
            raise failures[0].error
        return is_sent

    def _listen(self, seconds: float) -> None:
        try:
            results = self._transport.listen(seconds)
            if (task_ids := self._engine.tasks_to_look_up(self._clock())) is not None:
                results += self._transport.look_up(task_ids)
                self._engine.lookup_done(self._clock())
            for task_id, raw in results:
                action = self._engine.result_received(task_id, raw, self._clock())
                if action is not None:
                    self._perform(action)
            self._engine.store_reached()
        except BrokerUnreachable as error:
            failures = self._engine.store_failed(error)
            for failure in failures:
                self._engine.drop(failure.request)
            if failures:
                raise
            self._sleep(min(seconds, POLL_INTERVAL))

    def _perform(self, action: ResultAction) -> None:
        match action:
            case CompleteTask(_, task_ids):
                self._unsubscribe(task_ids)
            case ClearResult(task_id):
                self._transport.clear(task_id)
            case LogOutage(outage):
                log.warning("waiting: %s", outage.hint.subject)
            case Fail(request, error, clear_task_id):
                if clear_task_id is not None:
                    self._transport.clear(clear_task_id)
                self.drop(request)
                raise error

    def _unsubscribe(self, task_ids: Sequence[str]) -> None:
        try:
            self._transport.unsubscribe(task_ids)
        except BrokerUnreachable as error:
            self._engine.store_failed(error)


def request_reply(dispatcher: Dispatcher, message: PendingMessage, timeout: float) -> Reply:
    """Send a message that has one reply, and wait for it, at most `timeout` seconds.

    Raises Refused, NoAnswer, BrokerUnreachable.
    """
    request = SingleRequest(message)
    dispatcher.add(request)
    dispatcher.wait(lambda: request.reply is not None, timeout)
    if request.reply is None:
        raise dispatcher.give_up(request, timeout)
    if isinstance(request.reply, Outcome) and request.reply.refusal is not None:
        raise Refused(request.reply.refusal)
    return request.reply
