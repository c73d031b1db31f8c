"""The guarded transport on a real broker. A worker that dies is a connection that is dropped."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer
from structlog.testing import capture_logs

from tests.support.builders.frames import TASK_ID, build_frame, call_text, celery_headers
from worker.base.clock_watch import WATCH
from worker.broker import celery_guard
from worker.broker.celery_guard import SHARED_KEYS, GuardedQoS, GuardedTransport
from worker.doctor.dead_letter_list import read_dead_letters
from worker.doctor.discard_counts import read_discard_counts, read_ignored_traces
from worker.feature import Task

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


class Guarded:
    """A queue of its own on a real broker, and its readers."""

    def __init__(self, url: str, store: redis.Redis) -> None:
        self.store, self.queue = store, f"queue-{uuid4()}"
        self.readers: list[Reader] = []
        self._url = url

    def put(self, frame: Any = None) -> None:
        self.store.lpush(self.queue, json.dumps(frame or build_frame()))

    def start(self, handle: Handler | None = None) -> Reader:
        """Start a reader of the queue."""
        self.readers.append(Reader(self._url, self.queue, handle))
        return self.readers[-1]

    def result(self) -> dict[str, Any]:
        """Return the result of the task of build_frame."""
        values: dict[str, Any] = json.loads(self.store.get(f"celery-task-meta-{TASK_ID}") or b"{}")
        return values

    def dead_letters(self) -> list[tuple[str | None, str]]:
        """Return the task ids and queues of the messages that were set aside."""
        return [(each.task_id, each.queue) for each in read_dead_letters(self.store)]


@pytest.fixture
def guarded(valkey_url: str) -> Iterator[Guarded]:
    """The queue; the application stores results as in a worker process."""
    with redis.Redis.from_url(valkey_url) as client, Celery(backend=valkey_url) as app:
        client.flushdb()
        app.set_current()
        guarded = Guarded(valkey_url, client)
        yield guarded
        for reader in guarded.readers:
            reader.die()


def fail(_message: Any) -> None:
    raise RecursionError


def test_an_invalid_frame_is_discarded_and_its_sender_told(guarded: Guarded) -> None:
    guarded.put(build_frame(headers=celery_headers(timelimit="soon")))
    guarded.put()
    assert len(guarded.start().read()) == 1
    assert read_discard_counts(guarded.store) == {"timelimit": 1}
    refusal = guarded.result()["result"]["refusal"]
    assert (refusal["code"], refusal["field"]) == ("message_invalid", "timelimit")


@pytest.mark.parametrize(
    ("expires", "code"), [("2026-11-26T12:00:00Z", "deadline_passed"), ("", "message_invalid")]
)
def test_a_frame_whose_deadline_has_passed_is_refused_as_that_and_counted(
    guarded: Guarded, expires: str, code: str
) -> None:
    guarded.put(build_frame(headers=celery_headers(expires=expires)))
    guarded.put()
    assert len(guarded.start().read()) == 1
    assert read_discard_counts(guarded.store) == {"expires": 1}
    assert guarded.result()["result"]["refusal"]["code"] == code


def test_an_invalid_trace_header_is_counted_and_its_message_delivered(guarded: Guarded) -> None:
    guarded.put(build_frame(headers=celery_headers(traceparent="00-" + "a" * 10_240)))
    (message,) = guarded.start().read()
    assert message.headers["traceparent"] is None
    assert read_ignored_traces(guarded.store) == 1
    assert read_discard_counts(guarded.store) == {}


def test_a_forged_counter_of_trace_headers_stops_nothing(guarded: Guarded) -> None:
    guarded.store.set("valetkey.discarded", "forged")
    guarded.put(build_frame(headers=celery_headers(traceparent="b3")))
    assert len(guarded.start().read()) == 1


def test_the_sender_is_told_of_a_discarded_frame_though_the_counter_is_forged(
    guarded: Guarded,
) -> None:
    guarded.store.set("valetkey.discarded", "forged")
    guarded.put(build_frame(headers=celery_headers(timelimit="soon")))
    assert guarded.start().read() == []
    assert guarded.result()["status"] == "SUCCESS"


def test_a_frame_without_a_readable_id_is_discarded(guarded: Guarded) -> None:
    guarded.store.lpush(guarded.queue, b"\xff", b"null", b"")
    assert guarded.start().read() == []
    assert read_discard_counts(guarded.store) == {"json": 3}
    assert guarded.store.keys("celery-task-meta-*") == []


def test_a_frame_that_causes_an_error_is_set_aside_and_the_next_is_delivered(
    guarded: Guarded,
) -> None:
    handled = []

    def fail_once(message: Any) -> None:
        handled.append(message)
        if len(handled) == 1:
            raise RecursionError

    guarded.put()
    guarded.put(build_frame(headers=celery_headers(id="next")))
    guarded.start(fail_once).read()
    assert [message.headers["id"] for message in handled] == [TASK_ID, "next"]
    assert guarded.dead_letters() == [(TASK_ID, guarded.queue)]
    assert "RecursionError" in read_dead_letters(guarded.store)[0].problem


def test_a_task_of_a_deleted_feature_is_set_aside_and_the_next_is_handled(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[str] = []

    def handler(*_: Any) -> Handler:
        return lambda message: handled.append(message.headers["id"])

    monkeypatch.setattr("celery.worker.consumer.Consumer.create_task_handler", handler)
    monkeypatch.setattr(celery_guard, "UPKEEP_QUEUE", guarded.queue)
    monkeypatch.setattr(celery_guard, "TASKS", {"valetkey.issue": Task(queues=(guarded.queue,))})
    consumer = celery_guard.GuardedConsumer.__new__(celery_guard.GuardedConsumer)
    consumer.restart_count = 0
    guarded.put(build_frame(headers=celery_headers(task="valetkey.deleted")))
    guarded.put(build_frame(headers=celery_headers(id="next")))
    guarded.start(consumer.create_task_handler()).read()
    assert handled == ["next"]
    (letter,) = read_dead_letters(guarded.store)
    assert (letter.queue, letter.problem) == (guarded.queue, celery_guard.NO_FEATURE)
    assert guarded.store.hlen("unacked") == 1  # only the next one


def test_the_task_of_a_frame_that_is_set_aside_fails(guarded: Guarded) -> None:
    guarded.put()
    guarded.start(fail).read()
    assert guarded.result()["status"] == "FAILURE"
    assert guarded.store.hlen("unacked") == 0


def test_no_message_is_set_aside_because_the_connection_was_lost(guarded: Guarded) -> None:
    guarded.put()
    reader = guarded.start()
    reader.read()
    reader.lose_connection()
    assert [message.headers["id"] for message in guarded.start().read()] == [TASK_ID]
    assert guarded.dead_letters() == []


def test_a_worker_whose_clock_is_wrong_takes_no_message_until_it_is_right_again(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = guarded.start()
    guarded.put()
    with monkeypatch.context() as patched:
        patched.setattr(WATCH, "problems", {"own_clock": "an hour ahead"})
        assert reader.read() == []
    assert len(reader.read()) == 1


def test_a_worker_whose_clock_is_wrong_returns_no_message_of_another_worker(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded.put()
    dead = guarded.start()
    dead.read()
    dead.die()
    monkeypatch.setattr(WATCH, "problems", {"own_clock": "an hour ahead"})
    guarded.start().channel.qos.restore_visible()
    assert guarded.store.hlen("unacked") == 1


@contextmanager
def replica(guarded: Guarded) -> Iterator[None]:
    """Let the server be a replica without a primary, as in the window of a failover."""
    guarded.store.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        guarded.store.execute_command("REPLICAOF", "NO", "ONE")


def test_a_broker_that_became_a_replica_is_a_lost_connection(guarded: Guarded) -> None:
    guarded.put()
    reader = guarded.start()
    (message,) = reader.read()
    with replica(guarded):
        message.ack()
        for refused in (reader.read, guarded.start):
            with pytest.raises(GuardedTransport.connection_errors):
                refused()


def test_no_message_is_set_aside_because_its_broker_became_a_replica(guarded: Guarded) -> None:
    guarded.put()
    for _ in range(3):
        reader = guarded.start()
        assert len(reader.read()) == 1
        try:
            with replica(guarded):
                reader.channel.client.delete("a key")
        except redis.ResponseError:  # which ends a worker, that returns its messages
            reader.channel.qos.restore_unacked()
        reader.stop()
    assert guarded.dead_letters() == []
    assert guarded.store.keys("valetkey.redelivered:*") == []


def test_redeliveries_after_an_outage_do_not_count_against_a_frame(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GuardedQoS, "reconnected_at", time.monotonic())
    guarded.put()
    for _ in range(3):
        reader = guarded.start()
        assert len(reader.read()) == 1
        reader.die()
    assert guarded.dead_letters() == []


def test_a_frame_is_set_aside_after_two_workers_died_of_it(guarded: Guarded) -> None:
    guarded.put()
    for _ in range(2):
        reader = guarded.start()
        assert len(reader.read()) == 1
        reader.die()
    assert guarded.start().read() == []
    assert guarded.dead_letters() == [(TASK_ID, guarded.queue)]


def test_workers_that_stop_in_order_never_set_a_frame_aside(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery.worker.state.should_stop", 0)
    guarded.put()
    for _ in range(5):
        reader = guarded.start()
        assert len(reader.read()) == 1
        reader.stop()
    assert guarded.dead_letters() == []


def test_a_worker_that_an_error_ends_sets_aside_what_no_child_had_accepted(
    guarded: Guarded,
) -> None:
    guarded.put()
    reader = guarded.start()
    reader.read()
    try:
        fail(None)
    except RecursionError:
        reader.stop()
    assert guarded.dead_letters() == [(TASK_ID, guarded.queue)]
    assert guarded.store.llen(guarded.queue) == 0


@pytest.mark.parametrize("settle", ["ack", "reject"])
def test_a_message_that_cannot_be_settled_takes_up_no_place_and_is_reported_in_one_line(
    guarded: Guarded, settle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded.put()
    reader = guarded.start()
    (message,) = reader.read()
    reader.channel.qos.prefetch_count = 1
    assert not reader.channel.qos.can_consume()

    def fail_to_connect(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError

    monkeypatch.setattr(reader.channel.qos, "_remove_from_indices", fail_to_connect)
    reports: list[str] = []
    monkeypatch.setattr(celery_guard, "report_progress", reports.append)
    with capture_logs() as logs:  # Celery would log a traceback of an error that it sees
        getattr(message, settle)()
    assert [each["event"] for each in logs] == ["message_not_acknowledged"]
    assert reader.channel.qos.can_consume()
    assert reports == ["the broker cannot be used: ConnectionError"]


def deep_entry(levels: int) -> str:
    """Return an entry that can be read, but near the limit of levels not be written again."""
    delivery = json.dumps([FRAME | {"properties": {"delivery_info": {"exchange": 0}}}, "", "q"])
    return delivery.replace('"exchange": 0', f'"exchange": {"[" * levels}{"]" * levels}')


FRAME = build_frame(call_text(1), properties={"body_encoding": "utf-8"}, body=call_text(1))
FORGED: list[Any] = [
    "nonsense", "", "null", "[]", "[1, 2, 3]", '[{}, "", "q"]', '{"a": NaN}', "[" * 100_000,
    json.dumps([FRAME, "valetkey", "valetkey"]), json.dumps([FRAME, "", None]),
    json.dumps([FRAME | {"headers": {}}, "", "q"]), json.dumps([FRAME | {"body": None}, "", "q"]),
    json.dumps([FRAME | {"properties": {"delivery_info": None}}, "", "q"]),
    json.dumps([FRAME, "", "\ud800"]), json.dumps([FRAME, "", ""]),
    *map(deep_entry, range(800, 1_000)),
]  # fmt: skip


def test_forged_entries_are_removed_and_the_messages_after_them_are_redelivered(
    guarded: Guarded,
) -> None:
    guarded.put()
    dead = guarded.start()
    dead.read()
    for number, entry in enumerate(FORGED):
        guarded.store.hset("unacked", f"forged-{number}", entry)
        guarded.store.zadd("unacked_index", {f"forged-{number}": 10 + number})
    dead.die()
    reader = guarded.start()
    with capture_logs() as log:
        reader.channel.qos.restore_visible(num=300)
    assert [message.headers["id"] for message in reader.read()] == [TASK_ID]
    assert guarded.store.zcard("unacked_index") == 1
    removed = [line for line in log if line["event"] == "unacked_entry_removed"]
    assert len(removed) == len(FORGED)
    assert "nonsense" not in repr(log)


@pytest.mark.parametrize("count", ["forged", None])
def test_a_forged_count_of_redeliveries_ends_no_reader(guarded: Guarded, count: str | None) -> None:
    guarded.put()
    reader = guarded.start()
    reader.read()
    reader.die()
    guarded.start().channel.qos.restore_visible()
    (key,) = guarded.store.keys("valetkey.redelivered:*")
    guarded.store.delete(key)
    guarded.store.set(key, count) if count else guarded.store.lpush(key, 1)
    assert len(guarded.start().read()) == 1


@pytest.mark.parametrize(
    "key",
    [
        *("valetkey", "valetkey.upkeep\x06\x163", "unacked", "unacked_index", "unacked_mutex"),
        *("_kombu.binding.valetkey", "_kombu.binding_permanent.valetkey", "valetkey.waiting"),
        *("valetkey.waiting.lease", "valetkey.deadletters"),
    ],
)
@pytest.mark.parametrize("kind", ["string", "list", "hash"])
def test_a_key_of_another_type_is_removed_and_no_other(
    guarded: Guarded, key: str, kind: str
) -> None:
    store = guarded.store
    writes = {
        "string": lambda: store.set(key, "forged"),
        "list": lambda: store.lpush(key, "a"),
        "hash": lambda: store.hset(key, "a", "b"),
    }
    reader = guarded.start()
    writes[kind]()
    is_genuine = SHARED_KEYS[key] == kind != "string"
    reader.channel.qos.restore_visible()
    assert bool(store.exists(key)) == is_genuine


def test_a_lease_that_a_worker_has_is_kept(guarded: Guarded) -> None:
    guarded.store.set("unacked_mutex", "worker", ex=30)
    guarded.start().channel.qos.restore_visible()
    assert guarded.store.get("unacked_mutex") == b"worker"


def test_forged_bindings_lead_no_message_into_other_lists(guarded: Guarded) -> None:
    guarded.store.sadd("_kombu.binding.valetkey", b"\xff", "", "valetkey\x06\x16\x06\x16other")
    channel = guarded.start().channel
    assert list(channel._lookup("valetkey", "valetkey")) == ["valetkey"]


def test_a_sender_cannot_have_a_message_set_aside(guarded: Guarded) -> None:
    delivery = {"exchange": "", "routing_key": guarded.queue, "redelivered": True}
    frame = build_frame(properties={"delivery_info": delivery})
    for _ in range(5):
        guarded.put(frame)
    assert len(guarded.start().read()) == 5
    assert guarded.store.keys("valetkey.redelivered:*") == []


def test_a_broker_without_memory_ends_no_worker_and_the_message_is_processed(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded.put()
    reader = guarded.start()

    def refuse(*_: Any, **__: Any) -> None:
        raise redis.OutOfMemoryError

    monkeypatch.setattr("kombu.transport.redis.QoS.append", refuse)
    (message,) = reader.read()
    assert message.headers["id"] == TASK_ID
    message.ack()


@pytest.mark.parametrize(
    ("status", "request_name", "is_copy", "is_dropped"),
    [
        ("SUCCESS", "0a", True, True),
        ("RETRY", None, True, False),
        ("SUCCESS", None, True, False),
        ("SUCCESS", "0a", False, False),
    ],
    ids=["answered", "not answered", "answered for an unknown sender", "no copy"],
)
def test_a_copy_of_an_answered_message_is_dropped_unread_and_counted(
    guarded: Guarded, status: str, request_name: str | None, *, is_copy: bool, is_dropped: bool
) -> None:
    stored = {"status": status, "request": request_name, "result": {"status": "reported"}}
    guarded.store.set(f"celery-task-meta-{TASK_ID}", json.dumps(stored))
    delivery = {"exchange": "", "routing_key": guarded.queue, "redelivered": is_copy}
    guarded.put(build_frame(properties={"delivery_info": delivery}))
    assert len(guarded.start().read()) == (0 if is_dropped else 1)
    assert read_discard_counts(guarded.store) == ({"copy": 1} if is_dropped else {})
    assert guarded.result() == stored
