"""A request that cannot be decided is tried again, and then given up with an event of its own."""

import time
from collections.abc import Callable
from threading import Event
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from celery.exceptions import Ignore
from structlog.testing import capture_logs

from valetkey.wire.unavailable import Part
from worker import app as worker_app
from worker import tasks, upkeep
from worker.app import job_context
from worker.base.clock_watch import WATCH
from worker.base.jobs import JobRun, SingleFlight
from worker.context import Context
from worker.errors import Transient
from worker.feature import Job
from worker.features import JOBS


@pytest.fixture(autouse=True)
def _away(monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, "storage")
    monkeypatch.setattr(tasks, "job_context", lambda: None)


def fail(monkeypatch: pytest.MonkeyPatch, part: Part) -> None:
    """Let each try fail, because a part of the service does not answer."""

    def respond_transiently(_message: Any, _context: Any) -> NoReturn:
        raise Transient(f"{part} does not answer", part)

    monkeypatch.setattr(tasks, "respond", respond_transiently)


def respond(
    retries: int, store_result: Callable[..., None], eta: str | None = "2026-12-02T00:00:00"
) -> tuple[list[Any], list[int]]:
    """Try once more; return what is logged, and after how many seconds it is tried again."""
    pauses: list[int] = []
    task = SimpleNamespace(
        request=SimpleNamespace(id="a.0", retries=retries, eta=eta),
        max_retries=tasks.MAX_RETRIES,
        retry=lambda **options: pauses.append(options["countdown"]),
        backend=SimpleNamespace(store_result=store_result),
    )
    with capture_logs() as logs, pytest.raises(Ignore):
        tasks._respond(task, {})
    return list(logs), pauses


@pytest.mark.parametrize(
    ("part", "retries", "retry_in"),
    [
        ("storage", 0, 1),
        ("storage", 4, 16),
        ("storage", 5, None),
        ("database", 0, 1),
        ("database", 4, 2),
        ("database", 14, 2),
        ("database", 15, None),
    ],
)
def test_the_last_try_of_a_request_says_that_it_is_given_up(
    part: Part, retries: int, retry_in: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, part)
    stored: list[Any] = []
    logs, pauses = respond(retries, lambda *result: stored.append(result))
    event, status = ("issue_postponed", "RETRY") if retry_in else ("issue_given_up", "FAILURE")
    assert [(log["event"], log["problem"]) for log in logs] == [(event, f"{part} does not answer")]
    ((task_id, error, state),) = stored
    assert (task_id, state, error.get("retry_in")) == ("a.0", status, retry_in)
    assert pauses == ([retry_in] if retry_in else [])
    assert (error["code"], error["part"]) == ("unavailable", part)


def test_a_message_that_cannot_wait_in_memory_for_the_database_waits_in_its_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    fail(monkeypatch, "database")
    for retries, eta in ((0, None), (3, "2026-12-02T00:00:00"), (3, None)):
        respond(retries, lambda *_: None, eta)
    assert slept == [2]


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
        job_context().trigger("valetkey.deliver")
    finally:
        job_context.cache_clear()
    is_thawed.set()
    assert is_sent.wait(10)


def test_each_sweep_triggers_all_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    triggered: list[str] = []
    monkeypatch.setattr(SingleFlight, "trigger", lambda job: triggered.append(job._name))
    monkeypatch.setattr(upkeep, "_STOPPING", SimpleNamespace(wait=lambda _seconds: True))
    upkeep._sweep()
    assert triggered == [job.name for job in JOBS]


def run_job(
    monkeypatch: pytest.MonkeyPatch, counts: dict[str, int], runs: int = 1, seconds: float = 0.0
) -> int:
    """Run a job several times in a row; return how often its function was called."""
    done: list[JobRun] = []

    def use_case(_context: Context, run: JobRun) -> dict[str, int]:
        done.append(run)
        return counts

    monkeypatch.setattr(upkeep, "resolve", lambda _reference: use_case)
    monkeypatch.setattr(upkeep, "job_context", lambda: None)
    run_once = upkeep._JobRunner(Job("move", "moved", "", seconds=seconds))
    for _ in range(runs):
        run_once(JobRun())
    return len(done)


def test_a_job_that_did_something_logs_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    with capture_logs() as entries:
        run_job(monkeypatch, {"rows": 2})
    [entry] = entries
    assert (entry["event"], entry["rows"]) == ("moved", 2)
    assert entry["duration"] >= 0


@pytest.mark.parametrize(("seconds", "called"), [(0.0, 3), (60.0, 1)])
def test_a_job_runs_once_in_its_interval(
    seconds: float, called: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_job(monkeypatch, {}, runs=3, seconds=seconds) == called


@pytest.mark.parametrize(("problems", "runs"), [({}, 1), ({"own_clock": "an hour ahead"}, 0)])
def test_a_job_rests_while_the_clock_is_wrong(
    problems: dict[str, str], runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WATCH, "problems", problems)
    assert run_job(monkeypatch, {}) == runs
