"""The trigger after a commit: best effort, and nobody waits for the broker."""

from threading import Event
from typing import Any

import pytest

from worker import app as worker_app
from worker.app import job_context
from worker.context import Context


def test_a_frozen_broker_holds_nobody_who_committed_deliveries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_thawed, is_sent = Event(), Event()

    def send_task(name: str, **_: Any) -> None:
        assert is_thawed.wait(10), "the caller waits for the broker"
        if name == "valetkey.deliver":
            is_sent.set()

    database: Any = None
    context = Context(database, database, database)
    monkeypatch.setattr(worker_app, "process_context", lambda: context)
    monkeypatch.setattr(worker_app.app, "send_task", send_task)
    job_context.cache_clear()
    try:
        job_context().trigger_deliveries()
    finally:
        job_context.cache_clear()
    is_thawed.set()
    assert is_sent.wait(10)
