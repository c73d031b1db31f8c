"""The guarded transport on a real broker. A worker that dies is a connection that is dropped."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer

from tests.support.builders.frames import TASK_ID, build_frame, celery_headers
from worker.broker.dead_letters import read_dead_letters
from worker.broker.result_store import read_discard_counts

Handler = Callable[[Any], None]


class Reader:
    """A consumer of one queue, which keeps its messages unacknowledged."""

    def __init__(self, url: str, queue: str, handle: Handler | None = None) -> None:
        self.messages: list[Any] = []
        self._connection = Connection(
            url,
            transport="worker.broker.celery_guard:GuardedTransport",
            transport_options={"unacked_restore_throttle": 1},
        )
        self.channel = self._connection.channel()
        on_message = handle or self.messages.append
        consumer = Consumer(self.channel, [Queue(queue)], on_message=on_message)
        consumer.qos(prefetch_count=100)
        consumer.consume()

    def read(self) -> list[Any]:
        """Return the messages that arrive until the queue is empty."""
        self.messages.clear()
        self.channel.qos.restore_visible()
        try:
            while True:
                self._connection.drain_events(timeout=0.2)
        except TimeoutError:
            return list(self.messages)

    def die(self) -> None:
        """Close the connection without returning messages, as if the process had been killed."""
        if not self._connection.connected:
            return
        with self.channel.conn_or_acquire() as client:
            for tag in self.channel.qos._delivered:
                # As if the visibility timeout were over: the next reader gets the message.
                client.zadd("unacked_index", {tag: 0})
        self.channel.qos._delivered.clear()
        self._connection.close()

    def stop(self) -> None:
        """Close the connection, which returns unacknowledged messages."""
        self._connection.close()

    def lose_connection(self) -> None:
        """Return unacknowledged messages as a Celery worker does that lost its connection."""
        try:
            raise ConnectionError  # noqa: TRY301 - stands for a read that fails
        except ConnectionError:
            self._connection.collect(socket_timeout=0.1)


# Celery stores results with a command that redis-py prefers to call by another name.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
]


@pytest.fixture
def store(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
        yield client


@pytest.fixture(autouse=True)
def app(valkey_url: str) -> Iterator[Celery]:
    """The application that stores results, as in a worker process."""
    with Celery(backend=valkey_url) as app:
        app.set_current()
        yield app


@pytest.fixture
def queue() -> str:
    return f"queue-{uuid4()}"


Start = Callable[..., Reader]


@pytest.fixture
def start(valkey_url: str, queue: str) -> Iterator[Start]:
    """A function that starts a reader of the queue."""
    readers: list[Reader] = []

    def start_reader(handle: Handler | None = None) -> Reader:
        readers.append(Reader(valkey_url, queue, handle))
        return readers[-1]

    yield start_reader
    for reader in readers:
        reader.die()


def fail(_message: Any) -> None:
    raise RecursionError


def put(store: redis.Redis, queue: str, frame: Any) -> None:
    store.lpush(queue, json.dumps(frame))


def result_of(store: redis.Redis, task_id: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(store.get(f"celery-task-meta-{task_id}") or b"{}")
    return values


def test_an_invalid_frame_is_discarded_and_its_sender_told(
    store: redis.Redis, start: Start, queue: str
) -> None:
    put(store, queue, build_frame(headers=celery_headers(timelimit="soon")))
    put(store, queue, build_frame())
    assert len(start().read()) == 1
    assert read_discard_counts(store) == {"timelimit": 1}
    refusal = result_of(store, TASK_ID)["result"]["refusal"]
    assert (refusal["code"], refusal["field"]) == ("message_invalid", "timelimit")


def test_a_frame_without_a_readable_id_is_discarded(
    store: redis.Redis, start: Start, queue: str
) -> None:
    store.lpush(queue, b"\xff", b"null", b"")
    assert start().read() == []
    assert read_discard_counts(store) == {"json": 3}
    assert store.keys("celery-task-meta-*") == []


def test_a_frame_that_causes_an_error_is_set_aside_and_the_next_is_delivered(
    store: redis.Redis, start: Start, queue: str
) -> None:
    handled = []

    def fail_once(message: Any) -> None:
        handled.append(message)
        if len(handled) == 1:
            raise RecursionError

    put(store, queue, build_frame())
    put(store, queue, build_frame(headers=celery_headers(id="next")))
    start(fail_once).read()
    assert [message.headers["id"] for message in handled] == [TASK_ID, "next"]
    (dead_letter,) = read_dead_letters(store)
    assert (dead_letter.task_id, dead_letter.queue) == (TASK_ID, queue)
    assert "RecursionError" in dead_letter.problem


def test_the_task_of_a_frame_that_is_set_aside_fails(
    store: redis.Redis, start: Start, queue: str
) -> None:
    put(store, queue, build_frame())
    start(fail).read()
    assert result_of(store, TASK_ID)["status"] == "FAILURE"
    assert store.hlen("unacked") == 0


def test_no_message_is_set_aside_because_the_connection_was_lost(
    store: redis.Redis, start: Start, queue: str
) -> None:
    put(store, queue, build_frame())
    reader = start()
    reader.read()
    reader.lose_connection()
    assert [message.headers["id"] for message in start().read()] == [TASK_ID]
    assert read_dead_letters(store) == []


def test_a_frame_is_set_aside_after_two_workers_died_of_it(
    store: redis.Redis, start: Start, queue: str
) -> None:
    put(store, queue, build_frame())
    for _ in range(2):
        reader = start()
        assert len(reader.read()) == 1
        reader.die()
    assert start().read() == []
    (dead_letter,) = read_dead_letters(store)
    assert dead_letter.task_id == TASK_ID


def test_workers_that_stop_in_order_never_set_a_frame_aside(
    store: redis.Redis, start: Start, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery.worker.state.should_stop", 0)
    put(store, queue, build_frame())
    for _ in range(5):
        reader = start()
        assert len(reader.read()) == 1
        reader.stop()
    assert read_dead_letters(store) == []


def test_a_worker_that_an_error_ends_sets_aside_what_no_child_had_accepted(
    store: redis.Redis, start: Start, queue: str
) -> None:
    put(store, queue, build_frame())
    reader = start()
    reader.read()
    try:
        fail(None)
    except RecursionError:
        reader.stop()
    assert [each.task_id for each in read_dead_letters(store)] == [TASK_ID]
    assert store.llen(queue) == 0


@pytest.mark.parametrize("settle", ["ack", "reject"])
def test_a_message_that_cannot_be_settled_takes_up_no_place(
    store: redis.Redis, start: Start, queue: str, settle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, queue, build_frame())
    reader = start()
    (message,) = reader.read()
    reader.channel.qos.prefetch_count = 1
    assert not reader.channel.qos.can_consume()

    def fail_to_connect(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError

    monkeypatch.setattr(reader.channel.qos, "_remove_from_indices", fail_to_connect)
    with pytest.raises(redis.ConnectionError):
        getattr(message, settle)()
    assert reader.channel.qos.can_consume()


def test_a_sender_cannot_have_a_message_set_aside(
    store: redis.Redis, start: Start, queue: str
) -> None:
    frame = build_frame(
        properties={"delivery_info": {"exchange": "", "routing_key": queue, "redelivered": True}}
    )
    for _ in range(5):
        put(store, queue, frame)
    assert len(start().read()) == 5
    assert store.keys("valetkey.redelivered:*") == []


def test_a_broker_without_memory_ends_no_worker_and_the_message_is_processed(
    store: redis.Redis, start: Start, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, queue, build_frame())
    reader = start()

    def refuse(*_: Any, **__: Any) -> None:
        raise redis.OutOfMemoryError

    monkeypatch.setattr("kombu.transport.redis.QoS.append", refuse)
    (message,) = reader.read()
    assert message.headers["id"] == TASK_ID
    message.ack()
