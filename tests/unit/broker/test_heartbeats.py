from types import SimpleNamespace

import pytest
from celery.worker import state

from worker.broker.heartbeats import MAX_IDLE_BEATS, _StuckCheck


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
