"""What passes the checks but cannot be given to a child process, and workers that are stuck."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import WorkController, state

from tests.support.builders.frames import TASK_ID, call_text, celery_headers
from worker.broker.celery_guard import (
    MAX_IDLE_BEATS,
    MAX_WAITING,
    GuardedConsumer,
    GuardedWorker,
    _StuckCheck,
)


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
    channel = SimpleNamespace(set_aside_message=events.noting("set aside"))
    message = SimpleNamespace(channel=channel, reject_log_error=events.noting("put back"))
    return SimpleNamespace(id=TASK_ID, message=message)


def test_a_message_that_no_child_can_take_is_set_aside_and_its_place_is_free(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_worker(events, monkeypatch)._process_task(request_of(events))
    assert sorted(events) == ["released", "set aside"]


def test_a_worker_that_stops_puts_back_what_it_cannot_process(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "should_stop", 0)
    failing_worker(events, monkeypatch)._process_task(request_of(events))
    assert events == ["put back"]


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
        payload=[[{}], {}, None],
        delivery_info={"routing_key": "valetkey"},
    )
    GuardedConsumer.__new__(GuardedConsumer)._check(message)
    assert message.headers["eta"] == eta


def check_of(*, can_consume: bool) -> _StuckCheck:
    qos = SimpleNamespace(can_consume=lambda: can_consume)
    channel = SimpleNamespace(qos=qos)
    consumer = SimpleNamespace(hostname="issue@a", task_consumer=SimpleNamespace(channel=channel))
    return _StuckCheck(consumer)


def test_a_worker_that_takes_no_messages_and_works_on_none_is_stuck_after_a_while() -> None:
    check = check_of(can_consume=False)
    beats = [check() for _ in range(MAX_IDLE_BEATS)]
    assert beats == [False] * (MAX_IDLE_BEATS - 1) + [True]


def test_a_worker_that_waits_for_messages_is_not_stuck() -> None:
    check = check_of(can_consume=True)
    assert not any(check() for _ in range(2 * MAX_IDLE_BEATS))


def test_a_busy_worker_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "active_requests", {"a request"})
    check = check_of(can_consume=False)
    assert not any(check() for _ in range(2 * MAX_IDLE_BEATS))
