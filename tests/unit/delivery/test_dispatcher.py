"""The dispatcher while a server is silent: each try takes seconds before it fails."""

from typing import Any, cast

import pytest

from tests.support.fakes.pending_requests import usage_message
from valetkey.blocking import run
from valetkey.crypto.codec import Codec
from valetkey.delivery.dispatcher import Dispatcher
from valetkey.delivery.progress import SingleRequest
from valetkey.delivery.retransmit import FIRST_INTERVAL, RETRY_INTERVAL, RetransmitTimer
from valetkey.delivery.transport import Results, Transport
from valetkey.errors import BrokerUnreachable, NoAnswer

TRY_SECONDS = 5.0  # until an attempt to reach a silent server fails


class FakeServers:
    """A broker and a result store that can fall silent, with a clock of their own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.is_silent = self.interrupts = False
        self.sent: list[str] = []
        self.withdrawn: list[str] = []
        self.tries: list[str] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def send(self, task_id: str, *_: Any) -> None:
        if self.interrupts:
            raise KeyboardInterrupt
        self._try(task_id)
        self.sent.append(task_id)

    async def listen(self, seconds: float) -> Results:
        self._try("listen")
        self.now += seconds
        return []

    async def look_up(self, _task_ids: Any) -> Results:
        return []

    async def unsubscribe(self, _task_ids: Any) -> None: ...

    async def is_waiting(self, _task_id: str) -> bool:
        return True

    async def withdraw(self, task_ids: list[str]) -> None:
        self.withdrawn += task_ids

    def _try(self, name: str) -> None:
        if self.is_silent:
            self.now += TRY_SECONDS
            self.tries.append(name)
            raise BrokerUnreachable(name)


def work(dispatcher: Dispatcher, seconds: float) -> None:
    run(dispatcher.pause(seconds))


def dispatcher_with_due_messages(servers: FakeServers, count: int) -> Dispatcher:
    """Return a dispatcher with `count` messages that are due again; its servers fall silent."""
    transport = cast("Transport", servers)
    timer = RetransmitTimer(lambda: 0.0)
    dispatcher = Dispatcher(transport, Codec(None), timer, servers.clock)
    for number in range(count):
        dispatcher.add(usage_request(f"old.{number}"))
    work(dispatcher, 0)
    servers.now += FIRST_INTERVAL
    servers.is_silent = True
    return dispatcher


def usage_request(task_id: str) -> SingleRequest:
    return SingleRequest(usage_message(task_id))


def test_a_silent_broker_is_tried_once_with_a_new_message_and_with_no_other() -> None:
    servers = FakeServers()
    dispatcher = dispatcher_with_due_messages(servers, 9)
    dispatcher.add(usage_request("new.0"))
    work(dispatcher, 2)
    assert servers.tries == ["new.0"]
    assert dispatcher._engine.outage is not None


def test_after_a_silent_server_has_used_all_the_time_nothing_more_is_tried() -> None:
    servers = FakeServers()
    dispatcher = dispatcher_with_due_messages(servers, 9)
    servers.now -= 1  # nothing is due at first
    work(dispatcher, 2)
    assert servers.tries == ["listen"]


def test_a_long_wait_tries_again_to_send_a_stuck_message() -> None:
    servers = FakeServers()
    dispatcher = dispatcher_with_due_messages(servers, 1)
    dispatcher.add(usage_request("new.0"))
    work(dispatcher, 60)
    assert servers.tries.count("new.0") > 1


def test_a_message_whose_sending_was_interrupted_is_sent_again() -> None:
    servers = FakeServers()
    dispatcher = dispatcher_with_due_messages(servers, 0)
    servers.is_silent = False
    dispatcher.add(usage_request("new.0"))
    servers.interrupts = True
    with pytest.raises(KeyboardInterrupt):
        work(dispatcher, 2)
    servers.interrupts = False
    work(dispatcher, RETRY_INTERVAL + 1)
    assert servers.sent == ["new.0"]


def give_up(dispatcher: Dispatcher, task_id: str, error: type[Exception]) -> None:
    request = usage_request(task_id)
    with pytest.raises(error):
        run(dispatcher.wait(request, lambda: request.reply is not None, 1))


def test_a_request_that_is_given_up_is_withdrawn_from_the_queue() -> None:
    servers = FakeServers()
    dispatcher = dispatcher_with_due_messages(servers, 0)
    servers.is_silent = False
    give_up(dispatcher, "new.0", NoAnswer)
    assert (servers.sent, servers.withdrawn) == (["new.0"], ["new.0"])


def test_what_is_given_up_while_a_server_is_silent_is_withdrawn_later() -> None:
    servers = FakeServers()
    dispatcher = dispatcher_with_due_messages(servers, 1)
    give_up(dispatcher, "new.0", BrokerUnreachable)
    assert servers.withdrawn == []
    servers.is_silent = False
    work(dispatcher, 2 * FIRST_INTERVAL)
    assert servers.withdrawn == ["new.0"]
