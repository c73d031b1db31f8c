import os
import signal
from types import SimpleNamespace

import pytest

from worker.broker import pool_children
from worker.broker.pool_children import PoolChildren

WORKING, FROZEN = SimpleNamespace(pid=11, index=0), SimpleNamespace(pid=12, index=1)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The children that were killed."""
    pids: list[int] = []
    monkeypatch.setattr(pool_children, "_COUNTS", [0, 0])

    def kill(pid: int, number: signal.Signals) -> None:
        assert number == signal.SIGKILL  # a process that is stopped handles no other
        pids.append(pid)

    monkeypatch.setattr(os, "kill", kill)
    return pids


def check(children: PoolChildren, *processes: SimpleNamespace) -> int:
    pool_children._COUNTS[WORKING.index] += 1
    return children.check(processes)


def test_a_child_that_makes_no_progress_is_reported_and_killed_after_the_limit(
    killed: list[int],
) -> None:
    children = PoolChildren(15)
    silent = [check(children, WORKING, FROZEN) for _ in range(3)]
    assert (silent, killed) == ([0, 1, 1], [])
    assert check(children, WORKING, FROZEN) == 1
    assert killed == [FROZEN.pid]


def test_a_child_that_replaces_another_has_a_new_start(killed: list[int]) -> None:
    children = PoolChildren(5)
    check(children, WORKING, FROZEN)
    for pid in range(20, 25):
        assert check(children, WORKING, SimpleNamespace(pid=pid, index=FROZEN.index)) == 0
    assert killed == []
