"""Jobs that run once at a time, their threads, turns, rates and problems."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Barrier, Event, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.support.servers.waiting import wait_until
from worker.base import jobs
from worker.base.jobs import HANG_TIME, JobRun, ProblemLog, SingleFlight, ThreadGroup
from worker.uses.rate_limits import RateLimits
from worker.webhooks.turns import TurnKey, TurnLimits, Turns


class Job:
    """A job that waits to be released, and counts its runs. now is its monotonic clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.flight = SingleFlight("job", self, lambda: self.now)
        self.started = 0
        self.running = 0
        self.most_running = 0
        self.gate = Event()
        self.error: Exception | None = None
        self.runs: list[JobRun] = []

    def __call__(self, run: JobRun) -> None:
        self.runs.append(run)
        self.started += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            assert self.gate.wait(10)
            if self.error is not None:
                raise self.error
        finally:
            self.running -= 1

    def start(self) -> None:
        self.flight.trigger()
        wait_until(lambda: self.running == 1)

    def run_to_end(self) -> None:
        self.gate.set()
        self.flight.join(10)
        wait_until(lambda: self.running == 0)  # a run that was reported as hanging is not joined


@pytest.fixture
def job() -> Iterator[Job]:
    job = Job()
    yield job
    job.gate.set()
    job.flight.join(10)


def test_any_number_of_triggers_during_a_run_cost_one_more_run(job: Job) -> None:
    job.start()
    threads = [Thread(target=job.flight.trigger) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    job.run_to_end()
    assert (job.started, job.most_running) == (2, 1)


def test_a_trigger_after_a_run_starts_the_next(job: Job) -> None:
    for expected in (1, 2):
        job.flight.trigger()
        job.run_to_end()
        assert job.started == expected


def test_a_run_learns_of_a_trigger_meanwhile(job: Job) -> None:
    triggers: list[str] = []
    job.start()
    job.runs[0].on_trigger = lambda: triggers.append("meanwhile")
    job.flight.trigger()
    assert triggers == ["meanwhile"]
    job.run_to_end()


def test_an_exception_is_logged_and_does_not_keep_the_next_run_from_starting(job: Job) -> None:
    job.error = ZeroDivisionError()
    with capture_logs() as logs:
        job.start()
        job.flight.trigger()
        job.run_to_end()
        job.flight.trigger()
        job.flight.join(10)
    assert job.started == 3
    assert [(entry["event"], entry["job"]) for entry in logs] == [("job_failed", "job")] * 3


def test_a_run_without_progress_for_ten_minutes_is_reported_and_another_starts_beside_it(
    job: Job,
) -> None:
    job.start()
    job.now += HANG_TIME
    with capture_logs() as logs:
        job.flight.trigger()
    wait_until(lambda: job.running == 2)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("job_hangs", "error")]
    assert [run.is_stopping for run in job.runs] == [True, False]
    job.run_to_end()
    wait_until(lambda: job.running == 0)
    assert job.started == 2


def test_a_run_that_reports_progress_is_not_taken_for_hanging(job: Job) -> None:
    job.start()
    job.now += HANG_TIME - 1
    job.runs[0].progress()
    job.now += HANG_TIME - 1
    job.flight.trigger()
    job.run_to_end()
    assert (job.started, job.most_running) == (2, 1)


def test_a_stopped_job_ends_its_run_and_starts_no_other(job: Job) -> None:
    job.start()
    job.flight.trigger()
    job.flight.stop()
    assert job.runs[0].is_stopping
    job.run_to_end()
    job.flight.trigger()
    assert job.started == 1


def wait_for_all(group: ThreadGroup[int, int]) -> list[tuple[int, int]]:
    finished: list[tuple[int, int]] = []
    while group.running:
        finished += group.wait(10)
    return sorted(finished)


def test_units_run_at_the_same_time_and_return_their_results() -> None:
    barrier = Barrier(5)

    def work(unit: int) -> int:
        barrier.wait(10)
        return unit * 2

    group = ThreadGroup(work, "units")
    for unit in range(5):
        group.start(unit)
    assert wait_for_all(group) == [(unit, unit * 2) for unit in range(5)]


def test_waiting_returns_at_once_if_nothing_runs() -> None:
    start = time.monotonic()
    group: ThreadGroup[int, int] = ThreadGroup(int, "units")
    assert group.wait(10) == []
    assert time.monotonic() - start < 5


def test_a_wait_ends_once_the_group_is_woken() -> None:
    gate = Event()
    group: ThreadGroup[int, bool] = ThreadGroup(lambda _: gate.wait(30), "units")
    group.start(1)
    group.wake()
    assert group.wait(30) == []
    gate.set()
    assert group.wait(30) == [(1, True)]


def test_units_after_one_another_run_in_one_thread_which_ends_with_the_group() -> None:
    group = ThreadGroup(int, "one after another")
    for unit in range(3):
        group.start(unit)
        group.wait(10)
    (thread,) = (each for each in threading.enumerate() if each.name == "one after another")
    del group
    thread.join(10)
    assert not thread.is_alive()


def test_what_a_unit_raises_is_raised_to_the_caller() -> None:
    def work(unit: int) -> int:
        return 1 // unit

    group = ThreadGroup(work, "units")
    group.start(0)
    with pytest.raises(ZeroDivisionError):
        group.wait(10)
    assert group.running == 0


def test_an_abandoned_unit_is_not_waited_for_and_its_result_is_dropped() -> None:
    gate = Event()

    def work(unit: int) -> int:
        gate.wait(10)
        return unit

    group = ThreadGroup(work, "units")
    group.start(1)
    assert group.abandon(1000) == []
    assert group.abandon(-1) == [1]
    assert group.running == 0
    group.start(2)
    gate.set()
    assert wait_for_all(group) == [(2, 2)]


LIMITS = TurnLimits(total=8, per_owner=4, per_key=2, suspects=3)
A1, A2, A3 = (TurnKey("a", name) for name in "123")
B, C = TurnKey("b", "1"), TurnKey("c", "1")

keys = st.builds(TurnKey, st.sampled_from("abcde"), st.sampled_from("123"))


def waiting(*keys: TurnKey) -> dict[TurnKey, int]:
    return dict.fromkeys(keys, 100)


def test_a_new_owner_comes_before_those_that_were_served() -> None:
    turns = Turns(LIMITS._replace(total=3))
    turns.start(A1)
    turns.start(C)
    turns.end(A1)
    turns.end(C)
    turns.start(C)
    turns.start(C)
    assert turns.allot(waiting(A1, A2, B)) == {B: 1}


def test_an_owner_with_many_keys_gets_no_more_turns_than_one_with_a_single_key() -> None:
    turns = Turns(LIMITS._replace(total=1))
    many = [TurnKey("a", str(number)) for number in range(100)]
    served: Counter[str] = Counter()
    for _ in range(20):
        (key,) = turns.allot(waiting(*many, B))
        served[key.owner] += 1
        turns.start(key)
        turns.end(key)
    assert served == {"a": 10, "b": 10}


def test_the_keys_of_an_owner_are_served_in_turns() -> None:
    turns = Turns(LIMITS._replace(total=1))
    served = []
    for _ in range(6):
        (key,) = turns.allot(waiting(A1, A2, A3))
        served.append(key)
        turns.start(key)
        turns.end(key)
    assert served == [A1, A2, A3] * 2


@given(
    st.lists(st.tuples(st.dictionaries(keys, st.integers(0, 9)), st.sets(keys), st.integers(0, 9)))
)
def test_no_bound_is_exceeded_and_no_place_stays_free_that_an_owner_could_use(
    steps: list[tuple[dict[TurnKey, int], set[TurnKey], int]],
) -> None:
    turns, in_flight = Turns(LIMITS), Counter[TurnKey]()
    for wanted, suspects, ended in steps:
        shares = turns.allot(wanted, suspects)
        for key in Counter(shares).elements():
            turns.start(key)
        suspects_before = sum(in_flight[key] for key in suspects)
        in_flight += Counter(shares)
        owners = Counter(key.owner for key in in_flight.elements())
        suspect_count = sum(in_flight[key] for key in suspects)
        assert in_flight.total() <= LIMITS.total
        assert all(count <= LIMITS.per_owner for count in owners.values())
        assert all(count <= LIMITS.per_key for count in in_flight.values())
        assert all(share <= wanted[key] for key, share in shares.items())
        assert suspect_count <= max(LIMITS.suspects, suspects_before)
        if in_flight.total() < LIMITS.total:
            assert all(
                owners[key.owner] == LIMITS.per_owner
                or in_flight[key] == LIMITS.per_key
                or shares.get(key, 0) == count
                or (key in suspects and suspect_count >= LIMITS.suspects)
                for key, count in wanted.items()
            )
        for key in list(in_flight.elements())[:ended]:
            turns.end(key)
            in_flight -= Counter([key])


NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def test_a_burst_takes_the_tokens_of_a_second_and_waits_for_more() -> None:
    limits = RateLimits()
    assert [limits.take("a", 10, 7, NOW) for _ in range(3)] == [7, 3, 0]
    assert limits.take("a", 10, 7, NOW + timedelta(seconds=0.25)) == 2
    assert limits.take("b", 10, 7, NOW) == 7


def test_a_rate_below_one_a_second_still_has_one_token() -> None:
    limits = RateLimits()
    assert limits.take("a", 0.5, 5, NOW) == 1
    assert limits.take("a", 0.5, 5, NOW + timedelta(seconds=1)) == 0
    assert limits.take("a", 0.5, 5, NOW + timedelta(seconds=2)) == 1


def test_a_rate_of_zero_has_no_tokens() -> None:
    assert RateLimits().take("a", 0, 5, NOW) == 0


def test_a_clock_that_goes_back_adds_no_tokens() -> None:
    limits = RateLimits()
    assert limits.take("a", 10, 10, NOW) == 10
    assert limits.take("a", 10, 10, NOW - timedelta(hours=1)) == 0


@given(
    rate=st.integers(1, 50),
    steps=st.lists(st.tuples(st.floats(0, 2), st.integers(0, 100)), max_size=30),
)
def test_no_more_is_taken_than_the_rate_and_one_burst(
    rate: int, steps: list[tuple[float, int]]
) -> None:
    limits, now, taken = RateLimits(), NOW, 0
    for seconds, wanted in steps:
        now += timedelta(seconds=seconds)
        taken += limits.take("a", rate, wanted, now)
    assert taken <= rate * ((now - NOW).total_seconds() + 1) + 1e-3


def test_names_that_are_not_in_use_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_MAX_NAMES", 10)
    limits = RateLimits()
    for number in range(50):
        limits.take(number, 1, 1, NOW + timedelta(seconds=number))
    assert len(limits._buckets) <= 11
    assert limits.take(49, 1, 1, NOW + timedelta(seconds=49)) == 0


@pytest.mark.parametrize(
    ("subjects", "noted", "logged"),
    [
        pytest.param("aaa", ["x", "x", "x"], ["x"], id="a problem that stays: once"),
        pytest.param("aaa", ["x", "y", "x"], ["x", "y", "x"], id="one that changes: again"),
        pytest.param("aaa", ["x", None, "x"], ["x", "x"], id="one that ended and returns: again"),
        pytest.param("ab", ["x", "x"], ["x", "x"], id="that of another subject: too"),
    ],
)
def test_a_problem_is_logged_when_it_is_new(
    subjects: str, noted: list[str | None], logged: list[str]
) -> None:
    problems = ProblemLog()
    with capture_logs() as logs:
        for subject, text in zip(subjects, noted, strict=True):
            problems.note("left", subject, text, storage="a")
    assert [each["problem"] for each in logs] == logged
