from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import create_engine

from bench.capacity import meters
from bench.processes import CpuTime, Process
from worker.devstack.stack import Stack

VALKEY, RUN, CELERY, CHILD = 5, 10, 11, 20
TABLE = [Process(VALKEY, 1, 1), Process(RUN, 1, 1), Process(CELERY, RUN, 1)]
TIMES = {
    VALKEY: CpuTime(1.0, 0),
    RUN: CpuTime(0.5, 0),
    CELERY: CpuTime(2.0, 7.0),
    CHILD: CpuTime(3.0, 0),
}
STACK = cast("Stack", SimpleNamespace(info=SimpleNamespace(pids={"worker": RUN, "valkey": VALKEY})))


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
    tables = [[*TABLE, Process(CHILD, CELERY, 1)]]
    assert meter(monkeypatch, tables, set()).read() == meters.Cpu(3.0 + 7.0, 0.5 + 2.0, 1.0, 0)


def test_a_process_that_ends_while_it_is_read_is_counted_by_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Process(21, CELERY, 1)
    tables = [[*TABLE, Process(CHILD, CELERY, 1), other], [*TABLE, Process(CHILD, CELERY, 1)]]
    assert meter(monkeypatch, tables, {other.pid}).read().workers == 3.0 + 7.0
