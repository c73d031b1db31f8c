"""How long a courier tries where servers are silent: each try takes seconds before it fails."""

from typing import Any, cast

import pytest

from valetkey.crypto.codec import Codec
from valetkey.delivery.dispatcher import Dispatcher
from valetkey.delivery.progress import SingleRequest
from valetkey.delivery.retransmit import FIRST_INTERVAL, RetransmitTimer
from valetkey.delivery.transport import Results, Transport
from valetkey.errors import BrokerUnreachable
from valetkey.wire.pending import pending_message

TAKES = 5.0  # seconds, until a try is given up


class Silent:
    """Two servers that take what comes until they fall silent, on a clock of their own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.is_silent = self.interrupts = False
        self.sent: list[str] = []
        self.tries: list[str] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def send(self, task_id: str, _argument: Any, _queue: str) -> None:
        if self.interrupts:
            raise KeyboardInterrupt
        self._try(task_id)
        self.sent.append(task_id)

    def listen(self, seconds: float) -> Results:
        self._try("listen")
        self.now += seconds
        return []

    def look(self, _task_ids: Any) -> Results:
        return []

    def forget(self, _task_ids: Any) -> None: ...

    def _try(self, what: str) -> None:
        if self.is_silent:
            self.now += TAKES
            self.tries.append(what)
            raise BrokerUnreachable(what)


def never() -> bool:
    return False


def begun(servers: Silent, count: int) -> Dispatcher:
    """A courier with so many messages under way, that were sent as long ago as they may be."""
    transport = cast("Transport", servers)
    sender = RetransmitTimer(lambda: 0.0)
    courier = Dispatcher(transport, Codec(None), sender, servers.clock, servers.sleep)
    for number in range(count):
        courier.take(question(f"old.{number}"))
    courier.wait(never, 0)
    servers.now += FIRST_INTERVAL
    servers.is_silent = True
    return courier


def question(name: str) -> SingleRequest:
    return SingleRequest(pending_message(name, {"v": 1, "ask": "usage", "tenant": "acme"}))


def test_what_is_asked_of_a_silent_broker_is_tried_once_and_nothing_else_with_it() -> None:
    servers = Silent()
    courier = begun(servers, 9)
    courier.take(question("new.0"))
    assert not courier.wait(never, 2)
    assert servers.tries == ["new.0"]
    assert courier.trouble is not None


def test_a_wait_that_a_silent_server_outlasted_tries_nothing_more() -> None:
    servers = Silent()
    courier = begun(servers, 9)
    servers.now -= 1  # nothing is due at first
    assert not courier.wait(never, 2)
    assert servers.tries == ["listen"]


def test_a_long_wait_tries_again_what_could_not_be_sent() -> None:
    servers = Silent()
    courier = begun(servers, 1)
    courier.take(question("new.0"))
    assert not courier.wait(never, 60)
    assert {"old.0", "new.0"} <= set(servers.tries)
    assert servers.tries.count("new.0") > 1


def test_a_send_that_is_interrupted_is_tried_again() -> None:
    servers = Silent()
    courier = begun(servers, 0)
    servers.is_silent = False
    courier.take(question("new.0"))
    servers.interrupts = True
    with pytest.raises(KeyboardInterrupt):
        courier.wait(never, 2)
    servers.interrupts = False
    assert not courier.wait(never, 2 * FIRST_INTERVAL)
    assert servers.sent == ["new.0"]
