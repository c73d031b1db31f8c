from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

import pytest
from sqlalchemy import Engine, func, select

from models import KeyPage, UnindexedChunk
from tests.support.audit_log.key_lookup import (
    KEYS,
    Killed,
    kill_after,
    look_up,
    make_segments_small,
    scan,
    segment_states,
    write_batch,
)
from tests.support.builders import services
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService, other_processes
from worker.audit import key_lookup
from worker.audit.key_lookup import MIN_CHUNKS, Position, find_positions, index_keys
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import read_transaction
from worker.base.jobs import JobRun
from worker.context import Context


@pytest.fixture
def context(engine: Engine, clock: Clock) -> Context:
    return services.build_context(engine, S3Clients(), clock)


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    make_segments_small(monkeypatch)


@pytest.mark.parametrize("transactions", range(8))
def test_a_killed_job_loses_nothing_and_the_next_one_deletes_what_it_left(
    context: Context, clock: Clock, monkeypatch: pytest.MonkeyPatch, transactions: int
) -> None:
    for number in range(1, 9):
        write_batch(context.engine, number, KEYS)
    with monkeypatch.context() as patch:
        kill_after(patch, transactions)
        with pytest.raises(Killed):
            index_keys(context)
    expected = {key: scan(context.engine, key) for key in KEYS}
    assert {key: look_up(context.engine, key) for key in KEYS} == expected
    clock.forward(minutes=11)
    index_keys(context)
    index_keys(context)
    assert {key: look_up(context.engine, key) for key in KEYS} == expected
    assert segment_states(context.engine).keys() == {"complete"}
    with read_transaction(context.engine) as connection:
        contents = connection.scalars(select(KeyPage.entries)).all()
    assert sum(map(len, contents)) == 8 * len(KEYS) * key_lookup.ENTRY_BYTES


def test_few_chunks_are_left_to_the_scan(context: Context) -> None:
    write_batch(context.engine, 1, KEYS[:2])
    assert index_keys(context) == {"indexed_chunks": 0, "merged_segments": 0}
    assert look_up(context.engine, KEYS[1]) == [Position(1, 1)]


def test_segments_become_few(context: Context) -> None:
    for number in range(1, 33):
        write_batch(context.engine, number, KEYS)
    counts = index_keys(context)
    assert counts["indexed_chunks"] == 96
    assert counts["merged_segments"] > 2
    assert segment_states(context.engine) == {"complete": 1}


def test_a_run_that_has_to_stop_leaves_no_segment_unfinished(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 9):
        write_batch(context.engine, number, KEYS)
    run = JobRun()
    insert_pages = key_lookup.insert_pages

    def stop(*args: object) -> None:
        insert_pages(*args)  # type: ignore[arg-type]
        if "building" in segment_states(context.engine):
            run.stop()

    with monkeypatch.context() as patch:
        patch.setattr(key_lookup, "insert_pages", stop)
        index_keys(context, run)
    assert run.is_stopping
    assert "building" not in segment_states(context.engine)


def test_what_was_committed_before_a_search_is_found_while_two_processes_index(
    context: Context,
) -> None:
    committed: list[int] = []
    done = Event()

    def repeat(process: Context) -> None:
        while not done.is_set():
            index_keys(process)

    with ExitStack() as stack:
        (other,) = stack.enter_context(other_processes(InProcessService(context)))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        stack.callback(done.set)
        runs = [pool.submit(repeat, process) for process in (context, other.context)]
        for number in range(1, 41):
            write_batch(context.engine, number, [KEYS[0], f"acme/{number}"], 1)
            committed.append(number)
            expected = [Position(number, 0) for number in reversed(committed)]
            with read_transaction(context.engine) as connection:
                assert list(find_positions(connection, KEYS[0])) == expected
    for run in runs:
        run.result()
    index_keys(context)
    with read_transaction(context.engine) as connection:
        left = connection.scalar(select(func.count()).select_from(UnindexedChunk))
    assert left is not None
    assert left < MIN_CHUNKS
