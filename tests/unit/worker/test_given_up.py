"""A request that cannot be decided is tried again, and then given up with an event of its own."""

from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from celery.exceptions import Ignore
from structlog.testing import capture_logs

from worker import tasks
from worker.errors import Transient


def respond_transiently(_message: Any, _context: Any) -> NoReturn:
    raise Transient("storage does not answer")


@pytest.mark.parametrize(
    ("retries", "event"),
    [(0, "issue_postponed"), (4, "issue_postponed"), (5, "issue_given_up")],
)
def test_the_last_try_of_a_request_says_that_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch, retries: int, event: str
) -> None:
    stored: list[Any] = []
    monkeypatch.setattr(tasks, "respond", respond_transiently)
    monkeypatch.setattr(tasks, "process_context", lambda: None)
    task = SimpleNamespace(
        request=SimpleNamespace(id="a.0", retries=retries),
        max_retries=tasks.MAX_RETRIES,
        retry=lambda **_: None,
        backend=SimpleNamespace(store_result=lambda *args: stored.append(args)),
    )
    with capture_logs() as logs, pytest.raises(Ignore):
        tasks._respond(task, {})
    assert [(log["event"], log["problem"]) for log in logs] == [(event, "storage does not answer")]
