"""Whatever happens to messages and bundles, each request is answered once, and nothing leaks."""

import json
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fakes.delivery_engine import new_engine, next_send
from tests.support.fakes.fake_service import grant_outcome
from tests.support.fakes.pending_requests import small_request
from valetkey.delivery.engine import CompleteTask, DeliveryEngine, Fail
from valetkey.delivery.in_flight import Send
from valetkey.delivery.progress import BatchProgress
from valetkey.delivery.retransmit import MAX_INTERVAL
from valetkey.errors import BrokerUnreachable

Fate = Literal["answer", "twice", "part", "fail", "older", "sealed", "lose", "wait"]
FATES: list[Fate] = ["answer", "twice", "part", "fail", "older", "sealed", "lose", "wait"]
Broker = Literal["up", "down"]
BROKER: list[Broker] = ["up", "down"]
MALFORMED = {"code": "malformed", "field": "ask", "message": "no"}

Step = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 40)),
    st.tuples(st.just("send"), st.sampled_from(BROKER)),
    st.tuples(st.just("resend"), st.sampled_from(BROKER)),
    st.tuples(st.just("process"), st.sampled_from(FATES)),
    st.tuples(st.just("drop"), st.integers(0, 99)),
    st.tuples(st.just("pass"), st.sampled_from([0.1, 3.0, 700.0])),
)


class Simulation:
    """A dispatcher, a broker and a service, without I/O."""

    def __init__(self) -> None:
        self.now = 0.0
        self.engine: DeliveryEngine = new_engine(window=4)
        self.requests: list[BatchProgress] = []
        self.dropped: list[BatchProgress] = []
        self.queue: list[Send] = []
        self.listened: set[str] = set()

    def add(self, count: int) -> None:
        for number in range(count):
            keys = [f"{number}.{key}" for key in range(3 if number % 5 == 0 else 1)]
            request = small_request(*keys, chunk_size=1 if number % 10 == 0 else 600)
            self.requests.append(request)
            self.engine.add(request)

    def send(self, broker: Broker) -> None:
        send = next_send(self.engine, self.now)
        while send is not None:
            self._send(send, broker)
            send = self.engine.next_new()

    def resend(self, broker: Broker) -> None:
        for send in self.engine.resends(self.now):
            self._send(send, broker)
            if broker == "down":
                return

    def drop(self, number: int) -> None:
        if self.requests:
            request = self.requests.pop(number % len(self.requests))
            self.dropped.append(request)
            self.listened -= set(self.engine.drop(request))

    def process(self, fate: Fate) -> None:
        if not self.queue:
            return
        send = self.queue.pop(0)
        for _ in range(2 if fate == "twice" else 1):
            raw = self._result(send, fate)
            if raw is not None:
                action = self.engine.result_received(send.message.task_id, raw, self.now)
                self._perform(action)

    def recover(self) -> None:
        """Let everything work from now on, until all requests are answered."""
        for _ in range(200):
            if self.engine.is_idle:
                return
            self.send("up")
            self.resend("up")
            while self.queue:
                self.process("answer")
            self.now += 2 * MAX_INTERVAL
        raise AssertionError("requests are left")

    def _send(self, send: Send, broker: Broker) -> None:
        self.listened.add(send.message.task_id)
        if broker == "up":
            self.engine.message_sent(send.message.task_id, self.now)
            self.queue.append(send)
            return
        outage = BrokerUnreachable("down")
        for failure in self.engine.send_failed(send, outage, self.now):
            self._perform(failure)

    def _perform(self, action: Any) -> None:
        if isinstance(action, CompleteTask):
            self.listened -= set(action.task_ids)
        if isinstance(action, Fail):
            self.listened -= set(self.engine.drop(action.request))
            self.requests.remove(action.request)  # type: ignore[arg-type]
            self.dropped.append(action.request)  # type: ignore[arg-type]

    def _result(self, send: Send, fate: Fate) -> str | None:
        messages = send.message.body.get("messages")
        if fate in {"answer", "twice"} or (fate == "part" and messages is None):
            return stored(reply(messages) if messages else grant_outcome(send.message.body))
        if fate == "older" and messages:
            return stored({"batch": "", "chunk": 0, "status": "refused", "refusal": MALFORMED})
        if fate == "sealed" and messages:
            return "sealed"
        results = {
            "part": stored(reply((messages or [])[::2])),
            "fail": stored(None, "FAILURE"),
            "wait": stored(None, "RETRY"),
        }
        return results.get(fate)


def stored(result: Any, status: str = "SUCCESS") -> str:
    return json.dumps({"status": status, "result": result})


def reply(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {"status": "bundled", "replies": [grant_outcome(message) for message in messages]}


@settings(max_examples=150)
@given(st.lists(Step, max_size=40))
def test_each_request_is_answered_once_and_nothing_is_listened_for_in_vain(
    steps: list[tuple[str, Any]],
) -> None:
    simulation = Simulation()
    for name, argument in steps:
        if name == "pass":
            simulation.now += argument
        else:
            getattr(simulation, name)(argument)
    simulation.recover()
    # A reply to a message that was answered before would raise KeyError.
    assert [request.issued for request in simulation.requests] == [
        request.total for request in simulation.requests
    ]
    assert not simulation.listened
    assert not simulation.engine.unanswered
