import os
import subprocess
import sys

from bench.processes import Process, cpu_seconds, family, list_processes, pool_children

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


def test_cpu_time_counts_the_process_and_the_children_that_it_has_waited_for() -> None:
    before, own = cpu_seconds(os.getpid()), os.times()
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)

    used = os.times()
    waited = used.children_user + used.children_system - own.children_user - own.children_system
    assert waited > 0
    assert cpu_seconds(os.getpid()) - before >= waited - 0.02


def test_this_process_is_in_the_table() -> None:
    assert os.getpid() in {process.pid for process in list_processes()}
