import os
import subprocess
import sys

import pytest

from bench.processes import Process, cpu_time, family, list_processes, pool_children

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
