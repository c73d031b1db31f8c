"""Decides what a dispatcher sends, listens for and gives up. Pure: no I/O, no clock.

A dispatcher asks the engine for actions, performs them, and reports the outcome. Dispatcher does
so in the caller's thread, AsyncDispatcher in an event loop.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from valetkey.crypto.codec import DecodedResult
from valetkey.delivery.in_flight import InFlight, ReadMessage, Send
from valetkey.delivery.pending_request import PendingRequest, ServiceOutage
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.errors import BrokerUnreachable, Busy, SealedForAnotherKey, UnreadableReply

_OUTAGE_LOG_INTERVAL = 60.0  # seconds between two warnings that the service is unavailable
POLL_INTERVAL = 0.25  # seconds between lookups in the result store, whatever it announces


class CompleteTask(NamedTuple):
    """Unsubscribe from the results of these tasks, and wake those who wait for these requests."""

    requests: Sequence[PendingRequest]
    task_ids: Sequence[str]


class ClearResult(NamedTuple):
    """Remove an unusable result from the store, so that no lookup returns it again."""

    task_id: str


class Fail(NamedTuple):
    """Drop a request, and raise the error to those who wait for it.

    clear_task_id is the task whose result is unusable and must be removed from the store as well.
    """

    request: PendingRequest
    error: Exception
    clear_task_id: str | None = None


class LogOutage(NamedTuple):
    """Log that the service says that it cannot answer."""

    outage: ServiceOutage


ResultAction = CompleteTask | ClearResult | Fail | LogOutage
_Server = Literal["broker", "store"]


class DeliveryEngine(InFlight):
    """Delivers requests reliably: sends, sends again, and handles unreachable servers.

    decode reads a result, as Codec.decode does. Times are seconds of any one clock; first_lookup is
    the time of the first lookup in the result store.
    """

    def __init__(
        self,
        timer: RetransmitTimer,
        decode: Callable[[bytes | str], DecodedResult],
        first_lookup: float = 0.0,
    ) -> None:
        super().__init__(timer)
        self._decode = decode
        self._next_lookup = first_lookup
        self.has_reached_broker = False  # true once the broker has taken a message
        self.answered_at = float("-inf")  # the time of the last reply
        self._has_reached_store = False
        self._next_outage_log = float("-inf")
        self._outages: dict[_Server, BrokerUnreachable | Busy] = {}

    @property
    def outage(self) -> BrokerUnreachable | Busy | None:
        """The error of a server that takes nothing now; of several, that of the longest outage."""
        return next(iter(self._outages.values()), None)

    def add(self, request: PendingRequest) -> None:
        """Add a request, or resume one that was given up."""
        # The caller tries again, so every server gets another chance; a busy one has said when.
        self._outages = {k: error for k, error in self._outages.items() if isinstance(error, Busy)}
        super().add(request)

    def read_new(self, read: ReadMessage, now: float) -> list[PendingRequest]:
        """Read new messages of the requests in turn, as InFlight.read_new does.

        Then send those of next_new, and wake the waiters of the returned requests. Nothing is read
        while the result store is unreachable.
        """
        return [] if "store" in self._outages else super().read_new(read, now)

    def message_sent(self, task_id: str, now: float) -> None:
        """Report that the broker has taken a message."""
        self.has_reached_broker = True
        self._outages.pop("broker", None)
        self.record_send(task_id, now)

    def send_failed(
        self, send: Send, error: BrokerUnreachable | Busy | None, now: float
    ) -> list[Fail]:
        """Report that a message may not have been sent; error is None if this was interrupted.

        The message is tried again before any new one. An unreachable server fails its requests only
        if no message was ever sent: then a wrong URL is more likely than a passing outage, unless
        the server says that it will soon answer. A broker that is busy was reached.
        """
        self.record_send(send.message.task_id, now, is_stuck=True)
        if error is None:
            return []
        if isinstance(error, Busy):
            self.has_reached_broker = True
        elif not (self.has_reached_broker or error.is_busy):
            return [Fail(each, error) for each in self.requests_of(send.message.task_id)]
        self._outages["broker"] = error
        return []

    def listen_until(self, now: float) -> float:
        """Return the time of the next send or lookup, or infinity: listen until then at most."""
        next_lookup = self._next_lookup if self.unanswered else float("inf")
        return min(next_lookup, self.next_due(now))

    def tasks_to_look_up(self, now: float) -> list[str] | None:
        """Return the tasks whose results to look up, in case an announcement was missed.

        Returns None until it is time; report the lookup with lookup_done.
        """
        return self.unanswered if now >= self._next_lookup else None

    def lookup_done(self, now: float) -> None:
        """Report that a lookup has returned."""
        self._has_reached_store = True
        self._next_lookup = now + POLL_INTERVAL

    def result_received(self, task_id: str, raw: bytes | str, now: float) -> ResultAction | None:
        """Report a result from the store; return the action to perform, if any."""
        requests = self.requests_of(task_id)
        if not requests:
            return None  # answered before, or given up
        result: DecodedResult
        try:
            result = self._decode(raw)
        except (SealedForAnotherKey, UnreadableReply) as error:
            if task_id not in self._bundles:  # sending it again changes nothing
                return Fail(requests[0], error, clear_task_id=task_id)
            result = "failed"  # its messages are sent alone
        match self.receive(task_id, result, now):
            case "accepted":
                self.answered_at = now
                return CompleteTask(requests, self._take_ended())
            case "unusable":
                return ClearResult(task_id)
            case "unavailable":
                return self._log_outage(requests[0], now)
            case "ignored":
                return None

    def _log_outage(self, request: PendingRequest, now: float) -> LogOutage | None:
        outage = request.service_outages.current
        if outage is None or now < self._next_outage_log:
            return None
        self._next_outage_log = now + _OUTAGE_LOG_INTERVAL
        return LogOutage(outage)

    def store_reached(self) -> None:
        """Report that the result store answers."""
        self._outages.pop("store", None)

    def store_failed(self, error: BrokerUnreachable) -> list[Fail]:
        """Report that the result store is unreachable: no new message is sent until it answers.

        A permanent cause, like a missing permission, fails all requests if no result was ever
        looked up: a server that was usable before may become so again.
        """
        self._outages["store"] = error
        if self._has_reached_store or not error.is_permanent:
            return []
        return [Fail(request, error) for request in self.requests]
