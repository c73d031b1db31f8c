"""A request that cannot be decided is tried again, and then given up with an event of its own."""

from collections.abc import Callable
from threading import Event
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from celery.exceptions import Ignore
from structlog.testing import capture_logs

from worker import app as worker_app
from worker import tasks
from worker.app import job_context
from worker.base.clock_watch import WATCH
from worker.base.jobs import JobRun, SingleFlight
from worker.context import Context
from worker.errors import Transient


@pytest.fixture(autouse=True)
def _away(monkeypatch: pytest.MonkeyPatch) -> None:
    def respond_transiently(_message: Any, _context: Any) -> NoReturn:
        raise Transient("storage does not answer", "storage")

    monkeypatch.setattr(tasks, "respond", respond_transiently)
    monkeypatch.setattr(tasks, "job_context", lambda: None)


def respond(retries: int, store_result: Callable[..., None]) -> tuple[list[Any], list[int]]:
    """Try once more; return what is logged, and after how many seconds it is tried again."""
    pauses: list[int] = []
    task = SimpleNamespace(
        request=SimpleNamespace(id="a.0", retries=retries),
        max_retries=tasks.MAX_RETRIES,
        retry=lambda **options: pauses.append(options["countdown"]),
        backend=SimpleNamespace(store_result=store_result),
    )
    with capture_logs() as logs, pytest.raises(Ignore):
        tasks._respond(task, {})
    return list(logs), pauses


@pytest.mark.parametrize(
    ("retries", "event"), [(0, "issue_postponed"), (4, "issue_postponed"), (5, "issue_given_up")]
)
def test_the_last_try_of_a_request_says_that_it_is_given_up(retries: int, event: str) -> None:
    stored: list[Any] = []
    logs, _ = respond(retries, lambda *result: stored.append(result))
    assert [(log["event"], log["problem"]) for log in logs] == [(event, "storage does not answer")]
    ((task_id, error, state),) = stored
    assert (task_id, state) == ("a.0", "FAILURE" if retries == tasks.MAX_RETRIES else "RETRY")
    assert error.get("retry_in") == (None if state == "FAILURE" else 2**retries)
    assert (error["code"], error["part"]) == ("unavailable", "storage")


def test_a_result_store_that_is_away_does_not_end_the_tries() -> None:
    def store_result(*_: object) -> NoReturn:
        raise ConnectionError

    logs, pauses = respond(0, store_result)
    assert (pauses, logs[-1]["event"]) == ([1], "hint_not_stored")


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


def test_each_sweep_triggers_the_comparison_of_the_config_with_its_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    triggered: list[str] = []
    monkeypatch.setattr(SingleFlight, "trigger", lambda job: triggered.append(job._name))
    monkeypatch.setattr(tasks, "_SWEEPS_STOPPING", SimpleNamespace(wait=lambda _seconds: True))
    tasks._sweep()
    assert "config_check" in triggered


def test_a_job_that_did_something_logs_how_long_it_took() -> None:
    with capture_logs() as entries:
        tasks._job("move", "moved", lambda _context, _run: {"rows": 2})._job(JobRun())
    [entry] = entries
    assert (entry["event"], entry["rows"]) == ("moved", 2)
    assert entry["duration"] >= 0


@pytest.mark.parametrize(("problems", "runs"), [({}, 1), ({"own_clock": "an hour ahead"}, 0)])
def test_a_job_rests_while_the_clock_is_wrong(
    problems: dict[str, str], runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[JobRun] = []

    def use_case(_context: Context, run: JobRun) -> dict[str, int]:
        done.append(run)
        return {}

    monkeypatch.setattr(WATCH, "problems", problems)
    tasks._job("rest", "rested", use_case)._job(JobRun())
    assert len(done) == runs
