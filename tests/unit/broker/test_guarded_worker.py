"""What passes the checks but cannot be given to a child process, and workers that are stuck."""

import json
import os
import time
from collections.abc import Callable
from itertools import pairwise
from threading import Timer
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker import WorkController, state
from celery.worker.consumer import Consumer
from kombu.message import Message
from redis.exceptions import ReadOnlyError

from tests.support.builders.frames import TASK_ID, call_text, celery_headers
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE, ISSUE_TASK
from worker.base.clock_watch import WATCH
from worker.broker import celery_guard
from worker.broker.celery_guard import (
    MAX_IDLE_BEATS,
    MAX_WAITING,
    GuardedConsumer,
    GuardedQoS,
    GuardedWorker,
    Heart,
)
from worker.core import UPKEEP_QUEUE


class Events(list[str]):
    """What happened to a message and to its worker."""

    def noting(self, event: str) -> Any:
        return lambda *_, **__: self.append(event)


@pytest.fixture
def events() -> Events:
    return Events()


def failing_worker(events: Events, monkeypatch: pytest.MonkeyPatch) -> Any:
    def fail(*_: Any) -> None:
        raise RecursionError

    monkeypatch.setattr(WorkController, "_process_task", fail)
    worker = GuardedWorker.__new__(GuardedWorker)
    worker.semaphore = SimpleNamespace(release=events.noting("released"))
    worker.consumer = SimpleNamespace(connection_errors=())
    return worker


def request_of(events: Events) -> Any:
    channel = SimpleNamespace(dead_letter=events.noting("dead-lettered"))
    message = SimpleNamespace(channel=channel, _raw={}, reject_log_error=events.noting("put back"))
    return SimpleNamespace(id=TASK_ID, message=message)


def test_a_message_that_no_child_can_take_is_dead_lettered_and_its_place_is_free(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_worker(events, monkeypatch)._process_task(request_of(events))
    assert sorted(events) == ["dead-lettered", "released"]


def test_a_worker_that_stops_puts_back_what_it_cannot_process(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "should_stop", 0)
    failing_worker(events, monkeypatch)._process_task(request_of(events))
    assert events == ["put back"]


def stopping_worker(read_fd: int, on_result: Callable[[int], None]) -> Any:
    worker = GuardedWorker.__new__(GuardedWorker)
    pool = SimpleNamespace(_fileno_to_outq={read_fd: None}, handle_result_event=on_result)
    worker.hostname, worker.pool = "issue@host", SimpleNamespace(_pool=pool)
    worker.app = SimpleNamespace(conf=SimpleNamespace(worker_soft_shutdown_timeout=10))
    return worker


def test_a_worker_that_stops_waits_for_its_last_task_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    active = {"task"}
    monkeypatch.setattr(state, "active_requests", active)
    read_fd, write_fd = os.pipe()
    worker = stopping_worker(read_fd, lambda fd: active.discard(os.read(fd, 4).decode()))
    start = time.monotonic()
    Timer(0.2, os.write, (write_fd, b"task")).start()
    worker.wait_for_soft_shutdown()
    assert 0.2 <= time.monotonic() - start < 2
    assert not active
    os.close(read_fd)
    os.close(write_fd)


@pytest.mark.parametrize(
    ("waiting", "eta"), [(MAX_WAITING - 1, "2026-11-26T12:00:00+00:00"), (MAX_WAITING, None)]
)
def test_a_worker_holds_a_limited_number_of_messages_until_their_eta(
    waiting: int, eta: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "scheduled_requests", set(range(waiting)))
    message = SimpleNamespace(
        headers=celery_headers(eta="2026-11-26T12:00:00+00:00", retries=1),
        body=call_text({}).encode(),
        delivery_info={"routing_key": "valetkey"},
    )
    GuardedConsumer.__new__(GuardedConsumer)._check(message)
    assert message.headers["eta"] == eta


@pytest.mark.parametrize(
    ("name", "queue", "expected"),
    [
        ("valetkey.deleted", UPKEEP_QUEUE, ["dead-lettered"]),
        ("valetkey.deleted", INTERACTIVE_QUEUE, ["discarded"]),
        ("valetkey.deleted", BULK_QUEUE, ["discarded"]),
        ("other.task", UPKEEP_QUEUE, ["discarded"]),
        (ISSUE_TASK, INTERACTIVE_QUEUE, []),
    ],
)
def test_a_task_of_a_deleted_feature_is_dead_lettered_where_no_producer_can_write(
    name: str, queue: str, expected: list[str], events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[str] = []

    def dead_letter(_frame: Any, problem: str) -> None:
        problems.append(problem)
        events.append("dead-lettered")

    handled: list[Any] = []
    monkeypatch.setattr(Consumer, "create_task_handler", lambda *_: handled.append)
    monkeypatch.setattr(celery_guard, "report_discard", events.noting("discarded"))
    message = SimpleNamespace(
        headers=celery_headers(task=name),
        body=call_text({}).encode(),
        delivery_info={"routing_key": queue},
        channel=SimpleNamespace(dead_letter=dead_letter),
        reject_log_error=lambda *_: None,
        _raw={},
    )
    consumer = GuardedConsumer.__new__(GuardedConsumer)
    consumer.restart_count, consumer.app, consumer.connection_errors = 0, None, ()
    consumer.create_task_handler()(message)
    assert events == expected
    assert problems == [celery_guard.NO_FEATURE] * expected.count("dead-lettered")
    assert bool(handled) == (not expected)


def test_the_main_process_parses_a_body_once() -> None:
    body = call_text({"a": 1})
    message: Any = Message(  # type: ignore[no-untyped-call] # of kombu
        body=body.encode(), content_type="application/json"
    )
    message.headers = celery_headers()
    message.delivery_info = {"routing_key": "valetkey"}
    GuardedConsumer.__new__(GuardedConsumer)._check(message)
    message.body = b"not JSON"  # what Celery reads was kept
    assert message.payload == json.loads(body)


def test_a_worker_knows_when_it_found_its_lost_broker_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("on_connection_error_after_connected", "create_task_handler"):
        monkeypatch.setattr(Consumer, name, lambda *_: None)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(GuardedQoS, "reconnected_at", float("-inf"))
    consumer = GuardedConsumer.__new__(GuardedConsumer)
    consumer.on_connection_error_after_connected(ReadOnlyError())
    assert pauses == [celery_guard._REFUSED_PAUSE]  # it may refuse again at once
    assert GuardedQoS.reconnected_at == float("inf")
    consumer.restart_count = 1
    consumer.create_task_handler()
    assert GuardedQoS.reconnected_at <= time.monotonic()


def test_a_worker_tries_to_connect_every_two_seconds_however_long_an_outage_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[float] = [0.0]

    def connect() -> object:
        if tries[-1] < 600:
            tries.append(tries[-1])
            raise ConnectionRefusedError
        return object()

    def sleep(seconds: float) -> None:
        tries[-1] += seconds

    monkeypatch.setattr("kombu.utils.functional.sleep", sleep)
    consumer = GuardedConsumer.__new__(GuardedConsumer)
    consumer.app = Celery(broker="redis://", set_as_current=False)
    consumer.app.conf.broker_connection_max_retries = None
    connection = consumer.app.connection_for_read()
    monkeypatch.setattr(connection, "_connection_factory", connect)
    assert consumer.ensure_connected(connection) is connection
    assert max(later - earlier for earlier, later in pairwise(tries)) <= 2


def beat(events: Events, monkeypatch: pytest.MonkeyPatch, times: int, *, can_consume: bool) -> None:
    """Let the heart of a worker beat, which notes its heartbeats and its signals to itself."""
    monkeypatch.setattr(os, "kill", events.noting("stopped"))
    monkeypatch.setattr(celery_guard, "write_heartbeat", events.noting("alive"))
    beats: list[Callable[[], None]] = []
    channel = SimpleNamespace(qos=SimpleNamespace(can_consume=lambda: can_consume))
    consumer = SimpleNamespace(
        hostname="issue@a",
        pool=SimpleNamespace(_pool=None),
        task_consumer=SimpleNamespace(channel=channel, queues=[]),
        timer=SimpleNamespace(call_repeatedly=lambda _seconds, beat: beats.append(beat)),
    )
    limits = SimpleNamespace(task_time_limit=60, task_soft_time_limit=45)
    app = SimpleNamespace(backend=SimpleNamespace(client=None), conf=limits)
    heart = Heart(app, supervisor=1)
    heart.start(consumer)
    for _ in range(times - 1):
        beats[0]()


def test_a_worker_that_takes_no_messages_and_works_on_none_is_stopped_after_a_while(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(events, monkeypatch, MAX_IDLE_BEATS, can_consume=False)
    assert events == ["alive"] * (MAX_IDLE_BEATS - 1) + ["stopped"]


def test_a_worker_that_waits_for_messages_is_not_stuck(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(events, monkeypatch, 2 * MAX_IDLE_BEATS, can_consume=True)
    assert "stopped" not in events


def test_a_worker_that_takes_no_messages_because_of_its_clock_is_not_stuck(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WATCH, "problems", {"own_clock": "an hour ahead"})
    beat(events, monkeypatch, 2 * MAX_IDLE_BEATS, can_consume=False)
    assert "stopped" not in events


def test_a_busy_worker_is_not_stuck(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "active_requests", {"a request"})
    beat(events, monkeypatch, 2 * MAX_IDLE_BEATS, can_consume=False)
    assert "stopped" not in events
