"""A request that cannot be decided is tried again, and then given up with an event of its own."""

from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from celery.exceptions import Ignore
from structlog.testing import capture_logs

from worker import tasks
from worker.errors import Transient


def respond_transiently(_message: Any, _context: Any) -> NoReturn:
    raise Transient("storage does not answer", "storage")


@pytest.mark.parametrize(
    ("retries", "event"),
    [(0, "issue_postponed"), (4, "issue_postponed"), (5, "issue_given_up")],
)
def test_the_last_try_of_a_request_says_that_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch, retries: int, event: str
) -> None:
    stored: list[Any] = []
    monkeypatch.setattr(tasks, "respond", respond_transiently)
    monkeypatch.setattr(tasks, "job_context", lambda: None)
    task = SimpleNamespace(
        request=SimpleNamespace(id="a.0", retries=retries),
        max_retries=tasks.MAX_RETRIES,
        retry=lambda **_: None,
        backend=SimpleNamespace(store_result=lambda *args: stored.append(args)),
    )
    with capture_logs() as logs, pytest.raises(Ignore):
        tasks._respond(task, {})
    assert [(log["event"], log["problem"]) for log in logs] == [(event, "storage does not answer")]
    ((task_id, error, state),) = stored
    assert (task_id, state) == ("a.0", "FAILURE" if retries == tasks.MAX_RETRIES else "RETRY")
    assert error.get("retry_in") == (None if state == "FAILURE" else 2**retries)
    assert (error["code"], error["part"]) == ("unavailable", "storage")


def test_a_result_store_that_is_away_does_not_end_the_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def store_result(*_: object) -> NoReturn:
        raise ConnectionError

    monkeypatch.setattr(tasks, "respond", respond_transiently)
    monkeypatch.setattr(tasks, "job_context", lambda: None)
    retries: list[Any] = []
    task = SimpleNamespace(
        request=SimpleNamespace(id="a.0", retries=0),
        max_retries=tasks.MAX_RETRIES,
        retry=lambda **options: retries.append(options["countdown"]),
        backend=SimpleNamespace(store_result=store_result),
    )
    with capture_logs() as logs, pytest.raises(Ignore):
        tasks._respond(task, {})
    assert (retries, logs[-1]["event"]) == ([1], "hint_not_stored")
