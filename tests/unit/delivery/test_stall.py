"""Law 15, simulated: work that waits grows with the requests under way, never with a stall's time.

Delivery engines of several clients share a queue, and workers that stop. The clock is virtual.
"""

import json
import time
from collections import deque
from typing import Any, NamedTuple

import pytest

from tests.support.fakes.delivery_engine import new_engine, next_send
from tests.support.fakes.fake_service import grant_outcome
from tests.support.fakes.pending_requests import small_request
from valetkey.delivery.engine import DeliveryEngine
from valetkey.delivery.in_flight import Send
from valetkey.delivery.progress import BatchProgress
from valetkey.delivery.retransmit import FIRST_INTERVAL, RETRY_INTERVAL
from valetkey.delivery.transport import FrameLog
from valetkey.errors import BrokerUnreachable
from valetkey.wire.unavailable import Unavailable

_STEP = 0.25  # seconds
_GIVE_UP_SECONDS = 30.0  # for which a worker tries a message again


class Frame(NamedTuple):
    """A copy of a message in the queue."""

    client: "SimulatedClient"
    send: Send
    number: int


class SimulatedClient:
    """A delivery engine, and the frames that it has written."""

    def __init__(self, service: "Service", requests: int) -> None:
        self.engine: DeliveryEngine = new_engine()
        self.frames = FrameLog[Frame]()
        self.requests: list[BatchProgress] = []
        self._service = service
        self.request(requests)

    def request(self, count: int) -> None:
        for _ in range(count):
            self.requests.append(small_request())
            self.engine.add(self.requests[-1])

    def run(self, now: float) -> None:
        while (send := next_send(self.engine, now)) is not None:
            self._send(send, now)
        for send in self.engine.resends(now):
            self._send(send, now)

    def give_up(self) -> None:
        for request in self.requests:
            for frame in self.frames.forget(self.engine.drop(request)):
                self._service.remove(frame)
        self.requests.clear()

    def _send(self, send: Send, now: float) -> None:
        task_id = send.message.task_id
        if self._service.is_broker_away:
            self.engine.send_failed(send, BrokerUnreachable("away"), now)
            return
        for frame in self.frames.replaced_by_next(task_id):
            self._service.remove(frame)
        self._service.sent += 1
        frame = Frame(self, send, self._service.sent)
        self.frames.add(task_id, frame)
        self._service.queue.append(frame)
        self.engine.message_sent(task_id, now)


class Service:
    """The queue, and workers that drop copies of answered messages.

    Without the database, workers keep what they take, and give it up after half a minute.
    """

    def __init__(self, clients: int, requests: int) -> None:
        self.queue: deque[Frame] = deque()
        self.now = 0.0
        self.is_broker_away = self.is_database_away = False
        self.held: deque[tuple[float, Frame]] = deque()
        self.sent = self.processed = self.longest = 0
        self._answered: set[tuple[int, str]] = set()
        self.clients = [SimulatedClient(self, requests) for _ in range(clients)]

    def run(self, seconds: float, per_second: int = 0) -> None:
        """Let time pass, with workers that process this number of messages a second."""
        end = self.now + seconds
        while self.now < end:
            for client in self.clients:
                client.run(self.now)
            self.longest = max(self.longest, len(self.queue) + len(self.held))
            self._work(int(per_second * _STEP))
            due = min(client.engine.next_due(self.now) for client in self.clients)
            self.now = self.now + _STEP if per_second else max(min(due, end), self.now + _STEP)

    def remove(self, frame: Frame) -> None:
        if frame in self.queue:
            self.queue.remove(frame)

    @property
    def is_idle(self) -> bool:
        return not self.queue and all(client.engine.is_idle for client in self.clients)

    def _work(self, count: int) -> None:
        if self.is_database_away:
            self.held.extend((self.now + _GIVE_UP_SECONDS, frame) for frame in self.queue)
            self.queue.clear()
            while self.held and self.held[0][0] <= self.now:
                self._give_up(self.held.popleft()[1])
            return
        self.queue.extendleft(frame for _, frame in reversed(self.held))
        self.held.clear()
        batch: list[Frame] = []
        while self.queue and len(batch) < count:
            frame = self.queue.popleft()
            task = id(frame.client), frame.send.message.task_id
            if task not in self._answered:
                self._answered.add(task)
                batch.append(frame)
        self.processed += len(batch)
        for frame in reversed(batch):  # several workers finish in another order
            self._reply(frame)

    def _give_up(self, frame: Frame) -> None:
        hint = Unavailable("database", None, int(time.time())).celery_error()
        text = json.dumps({"status": "FAILURE", "result": hint})
        frame.client.engine.result_received(frame.send.message.task_id, text, self.now)

    def _reply(self, frame: Frame) -> None:
        body, task_id = frame.send.message.body, frame.send.message.task_id
        messages = body.get("messages")
        result: Any = {"status": "bundled", "replies": [*map(grant_outcome, messages or [])]}
        text = json.dumps(
            {"status": "SUCCESS", "result": result if messages else grant_outcome(body)}
        )
        frame.client.engine.result_received(task_id, text, self.now)


@pytest.mark.parametrize("seconds", [8, 30, 120, 3_600])
@pytest.mark.parametrize(("clients", "requests", "messages"), [(1, 3_000, 47), (200, 1, 200)])
def test_after_a_stall_of_any_length_each_message_was_queued_twice_at_most_and_processed_once(
    clients: int, requests: int, messages: int, seconds: float
) -> None:
    service = Service(clients, requests)
    service.run(seconds)
    service.run(30, per_second=40)
    assert service.is_idle
    assert service.processed == messages
    assert service.longest <= messages + min(3 * clients, messages)


def test_requests_that_are_given_up_in_a_stall_leave_the_queue() -> None:
    service = Service(clients=4, requests=50)
    for _ in range(20):
        service.run(30)
        for client in service.clients:
            client.give_up()
            client.request(50)
    messages = 4 * 2  # of 32 and 18 requests, under way at any time
    service.run(30, per_second=40)
    assert service.is_idle
    assert service.processed == messages
    assert service.longest <= 2 * messages


@pytest.mark.parametrize("requests", [1, 500])
def test_messages_that_the_broker_lost_are_answered_within_three_intervals(requests: int) -> None:
    service = Service(clients=3, requests=requests)
    service.run(1)
    service.queue.clear()
    service.run(3 * FIRST_INTERVAL, per_second=400)
    assert service.is_idle


@pytest.mark.parametrize("requests", [1, 500])
def test_after_an_outage_of_the_broker_of_any_length_all_are_answered_within_three_intervals(
    requests: int,
) -> None:
    service = Service(clients=3, requests=requests)
    service.run(1)
    service.queue.clear()
    service.is_broker_away = True
    service.run(100)
    service.is_broker_away = False
    service.run(3 * FIRST_INTERVAL, per_second=400)
    assert service.is_idle


@pytest.mark.parametrize("seconds", [29, 45, 300])
@pytest.mark.parametrize(("clients", "requests", "messages"), [(1, 3_000, 47), (20, 1, 20)])
def test_an_outage_of_the_database_of_any_length_multiplies_no_work_and_delays_no_answer(
    clients: int, requests: int, messages: int, seconds: float
) -> None:
    service = Service(clients, requests)
    service.is_database_away = True
    service.run(seconds, per_second=400)
    service.is_database_away = False
    service.run(RETRY_INTERVAL + 4 * _STEP, per_second=400)
    assert service.is_idle
    assert service.processed == messages
    assert service.longest <= 4 * messages
