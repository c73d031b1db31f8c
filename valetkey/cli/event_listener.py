"""Listens to a tenant's webhooks over the client's own connections, and notices what it missed."""

import random
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

import redis

from valetkey.blocking import run
from valetkey.config import Config
from valetkey.crypto.codec import Codec
from valetkey.crypto.jose import InvalidToken, unseal
from valetkey.crypto.keys import PrivateKey
from valetkey.delivery.dispatcher import Dispatcher
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.delivery.transport import (
    RESULT_PREFIX,
    SOCKET_TIMEOUT,
    Transport,
    client_servers,
    connect_store,
)
from valetkey.errors import BrokerUnreachable, NoAnswer
from valetkey.session import Options, Session, new_id
from valetkey.wire.events import RelayedEvent
from valetkey.wire.replies import Listening, MissedEvent

RENEW_SECONDS = 20.0
"""The time after which it asks again: often enough for the 60 seconds of the service."""

REPLY_SECONDS = 10.0
SILENCE_SECONDS = 6.0
"""The longest time without a sign of life. The service sends one every other second."""

_PAUSE_SECONDS = 1.0  # before a lost connection is opened again
_GRACE_SECONDS = 2.0  # in which an event can still arrive that the service has counted as sent
_MAX_IDS = 1_000  # that are remembered: an event for several endpoints has one id


class EventListener:
    """The events of a tenant, with the loss of the connection reported by say, in sentences."""

    def __init__(self, config: Config, key: PrivateKey, say: Callable[[str], None]) -> None:
        self._servers = client_servers(config)
        self._key, self._say = key, say
        self._dispatcher = Dispatcher(
            Transport(self._servers), Codec(key), RetransmitTimer(random.random)
        )
        self._session = Session(config, self._dispatcher, Options(), {})
        self._id = new_id()
        self._state = "new"  # then listening or lost
        self._after: int | None = None
        self._ids: deque[str] = deque(maxlen=_MAX_IDS)
        self._missed: dict[int, MissedEvent] = {}
        self._missed_count, self._missed_at = 0, 0.0

    def close(self) -> None:
        """Close the connections."""
        run(self._dispatcher.close())

    def events(self) -> Generator[RelayedEvent]:
        """Yield each event, and connect again whenever the connection is lost.

        Raises BrokerUnreachable or NoAnswer if it cannot listen at first, and Refused at any time.
        """
        while True:
            try:
                yield from self._events_of_connection()
            except (BrokerUnreachable, NoAnswer) as error:
                if self._state == "new":
                    raise
                if self._state != "lost":
                    self._say(f"connection lost: {error}\nTrying again until it is back.")
                self._state = "lost"
            time.sleep(_PAUSE_SECONDS)

    def _events_of_connection(self) -> Iterator[RelayedEvent]:
        with closing(connect_store(self._servers, retries=0)) as store, _pubsub(store) as pubsub:
            with self._servers.store_errors():
                pubsub.subscribe(RESULT_PREFIX + self._id)
                pubsub.get_message(timeout=SOCKET_TIMEOUT)  # confirms it: the service looks for it
            renew_at, heard_at = 0.0, time.monotonic()
            while True:
                if time.monotonic() >= renew_at:
                    self._renew()
                    renew_at = time.monotonic() + RENEW_SECONDS
                with self._servers.store_errors():
                    message = pubsub.get_message(timeout=1.0)
                if message is not None and message["type"] == "message":
                    self._report_connection()
                    event = self._open(message["data"])
                    if event is not None:
                        yield event
                    heard_at = time.monotonic()
                elif time.monotonic() > heard_at + SILENCE_SECONDS:
                    # These two raise if Redis or the whole service is the cause.
                    with self._servers.store_errors():
                        store.ping()
                    self._renew()
                    raise NoAnswer(
                        "the service answers, but relays no events: is a worker running that does "
                        "upkeep?"
                    )
                self._report_missed()

    def _renew(self) -> None:
        """Ask to listen for another while. Raises Refused, NoAnswer, BrokerUnreachable."""
        request = self._session.ask(
            Listening, "listen", REPLY_SECONDS, listener=self._id, after=self._after
        )
        reply = run(request)
        self._after = max(self._after or 0, reply.cursor)
        self._missed |= {event.number: event for event in reply.missed}
        self._missed_count += reply.missed_count
        self._missed_at = time.monotonic() + _GRACE_SECONDS

    def _open(self, data: bytes) -> RelayedEvent | None:
        """Return an event that is new, or None for anything else."""
        try:
            event = RelayedEvent.model_validate_json(unseal(data.decode(), self._key))
        except (InvalidToken, ValueError):
            return None
        if self._missed.pop(event.number, None) is not None:
            self._missed_count -= 1
        self._after = max(self._after or 0, event.number)
        if event.id in self._ids:
            return None
        self._ids.append(event.id)
        return event

    def _report_connection(self) -> None:
        if self._state != "listening":
            again = "connected again" if self._state == "lost" else "listening"
            self._say(f"{again}: events of {self._key.tenant} appear here")
        self._state = "listening"

    def _report_missed(self) -> None:
        if not self._missed_count or time.monotonic() < self._missed_at:
            return
        lines = [f"  {event.type}  {event.batch or ''}".rstrip() for event in self._missed.values()]
        unnamed = self._missed_count - len(lines)
        more = [f"  and {unnamed:,} more"] if unnamed > 0 else []
        text = "missed, and not sent again:"
        self._say("\n".join([text, *lines, *more]))
        self._missed, self._missed_count = {}, 0


def _pubsub(store: redis.Redis) -> Any:
    return store.pubsub()  # type: ignore[no-untyped-call]  # redis-py's gap
