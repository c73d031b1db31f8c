import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import create_engine

from bench.capacity import meters
from bench.processes import CpuTime, Process, cpu_time, family, list_processes, pool_children
from worker.dev.stack import Stack

RUN, CELERY, FIRST, SECOND, OTHER = (
    Process(10, 1, 98.0),
    Process(11, 10, 136.0),
    Process(20, 11, 120.0),
    Process(21, 11, 121.0),
    Process(30, 1, 500.0),
)
TABLE = [SECOND, OTHER, FIRST, CELERY, RUN]


def test_a_family_has_all_processes_below_its_first_one_and_no_others() -> None:
    assert sorted(family(TABLE, RUN.pid)) == [RUN, CELERY, FIRST, SECOND]


def test_the_processes_that_start_others_are_no_pool_children() -> None:
    assert sorted(pool_children(TABLE, RUN.pid)) == [FIRST, SECOND]


def test_the_cpu_time_of_ended_children_is_told_from_that_of_the_process() -> None:
    before, times = cpu_time(os.getpid()), os.times()
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    sum(range(2_000_000))
    after, used = cpu_time(os.getpid()), os.times()

    waited = used.children_user + used.children_system - times.children_user - times.children_system
    assert waited > 0
    assert after.ended_children - before.ended_children == pytest.approx(waited, abs=0.02)
    own = used.user + used.system - times.user - times.system
    assert own > 0
    assert after.own - before.own == pytest.approx(own, abs=0.02)


def test_this_process_is_in_the_table() -> None:
    assert os.getpid() in {process.pid for process in list_processes()}


VALKEY_PID, RUN_PID, CELERY_PID, CHILD_PID = 5, 10, 11, 20
METERED = [Process(VALKEY_PID, 1, 1), Process(RUN_PID, 1, 1), Process(CELERY_PID, RUN_PID, 1)]
TIMES = {
    VALKEY_PID: CpuTime(1.0, 0),
    RUN_PID: CpuTime(0.5, 0),
    CELERY_PID: CpuTime(2.0, 7.0),
    CHILD_PID: CpuTime(3.0, 0),
}
STACK = cast(
    "Stack", SimpleNamespace(info=SimpleNamespace(pids={"worker": RUN_PID, "valkey": VALKEY_PID}))
)


def meter(monkeypatch: pytest.MonkeyPatch, tables: list[list[Process]], ended: set[int]) -> Any:
    def cpu_time(pid: int) -> CpuTime:
        if pid in ended:
            raise FileNotFoundError
        return TIMES[pid]

    monkeypatch.setattr(meters, "list_processes", lambda: tables.pop(0))
    monkeypatch.setattr(meters, "cpu_time", cpu_time)
    return meters.CpuMeter(STACK, create_engine("sqlite://"))


def test_children_that_ended_count_as_workers_and_not_as_readers_of_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = [[*METERED, Process(CHILD_PID, CELERY_PID, 1)]]
    assert meter(monkeypatch, tables, set()).read() == meters.Cpu(3.0 + 7.0, 0.5 + 2.0, 1.0, 0)


def test_a_process_that_ends_while_it_is_read_is_counted_by_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Process(21, CELERY_PID, 1)
    tables = [
        [*METERED, Process(CHILD_PID, CELERY_PID, 1), other],
        [*METERED, Process(CHILD_PID, CELERY_PID, 1)],
    ]
    assert meter(monkeypatch, tables, {other.pid}).read().workers == 3.0 + 7.0
