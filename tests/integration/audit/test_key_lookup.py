from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import count
from threading import Event

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine, func, select, text

from models import KeyPage, UnindexedChunk
from tests.support.audit_log.key_lookup import (
    ABSENT,
    KEYS,
    Killed,
    add_chunk,
    count_segments,
    kill_after,
    look_up,
    make_segments_small,
    scan,
    write_batch,
)
from tests.support.builders import services
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService, other_processes
from worker.audit import key_lookup
from worker.audit.key_lookup import MIN_CHUNKS, Position, find_positions, index_keys
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import read_transaction
from worker.context import Context


@pytest.fixture
def context(engine: Engine, clock: Clock) -> Context:
    return services.build_context(engine, S3Clients(), clock)


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    make_segments_small(monkeypatch)


@pytest.fixture
def _colliding_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give all keys one of two hashes."""
    monkeypatch.setattr(key_lookup, "hash_key", lambda key: bytes(3) + bytes([len(key) % 2]))


class KeyLookupMachine(RuleBasedStateMachine):
    """Commits chunks in any order and indexes them; searches find what a scan finds.

    The rows of one run of the machine stay for the next one.
    """

    numbers = count(1)

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context
        self.engine = context.engine
        self.open_batches: list[tuple[int, int]] = []  # number, next chunk

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=7), size=st.integers(1, 3))
    def commit_batch(self, keys: list[str], size: int) -> None:
        number = next(self.numbers)
        write_batch(self.engine, number, keys, size)
        self.open_batches.append((number, -(-len(keys) // size)))

    @rule(key=st.sampled_from(KEYS), choice=st.integers(0, 100))
    def commit_later_chunk_of_an_earlier_batch(self, key: str, choice: int) -> None:
        if not self.open_batches:
            return
        number, chunk_number = self.open_batches.pop(choice % len(self.open_batches))
        self.open_batches.append((number, chunk_number + 1))
        add_chunk(self.engine, number, chunk_number, key)

    @rule()
    def index(self) -> None:
        index_keys(self.context)

    @rule()
    def index_a_few(self) -> None:
        key_lookup._index_chunks(self.context)

    @rule(transactions=st.integers(0, 6))
    def kill(self, transactions: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            kill_after(patch, transactions)
            with suppress(Killed):
                index_keys(self.context)

    @invariant()
    def finds_what_a_scan_finds(self) -> None:
        for key in (*KEYS, ABSENT):
            expected = scan(self.engine, key)
            assert look_up(self.engine, key) == expected
            before = expected[len(expected) // 2] if expected else Position(1, 1)
            assert look_up(self.engine, key, before) == scan(self.engine, key, before)


def test_a_search_finds_what_a_scan_finds(context: Context) -> None:
    KeyLookupMachine.numbers = count(1)
    run_state_machine_as_test(
        lambda: KeyLookupMachine(context),  # type: ignore[arg-type] # any callable will do
        settings=settings(max_examples=4, stateful_step_count=12, deadline=None, derandomize=True),
    )
    assert count_segments(context.engine) > 0


@pytest.mark.usefixtures("_colliding_hashes")
def test_a_search_also_finds_keys_with_the_same_hash(context: Context) -> None:
    for number in range(1, 9):
        write_batch(context.engine, number, KEYS)
    index_keys(context)
    with read_transaction(context.engine) as connection:
        found = list(find_positions(connection, KEYS[0]))
    assert len(found) > len(scan(context.engine, KEYS[0]))
    for key in (*KEYS, ABSENT):
        assert look_up(context.engine, key) == scan(context.engine, key)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("before", [None, Position(60, 0)])
def test_old_statistics_do_not_let_postgresql_scan_the_grants(
    engine: Engine, before: Position | None
) -> None:
    for number in range(1, 60):
        write_batch(engine, number, [KEYS[0], f"acme/{number}"])
    counts = {"unindexed_chunks": 60_000, "grants_first": 1_000_000, "batches": 300_000}
    with engine.connect().execution_options(purpose="autocommit") as connection:
        connection.execute(text("ANALYZE"))
        for table, rows in counts.items():
            connection.execute(
                text("UPDATE pg_class SET reltuples = :rows WHERE relname = :table"),
                {"rows": rows, "table": table},
            )
    query = key_lookup._unindexed_query("postgresql", KEYS[0], before)
    with read_transaction(engine) as connection:
        sql = query.compile(connection, compile_kwargs={"render_postcompile": True})
        plan = connection.exec_driver_sql(f"EXPLAIN {sql}", sql.params).scalars().all()
    assert "Seq Scan on grants_first" not in "\n".join(plan)


@pytest.mark.parametrize("transactions", range(8))
def test_a_killed_job_loses_nothing_and_leaves_nothing_unfinished(
    context: Context, monkeypatch: pytest.MonkeyPatch, transactions: int
) -> None:
    for number in range(1, 9):
        write_batch(context.engine, number, KEYS)
    with monkeypatch.context() as patch:
        kill_after(patch, transactions)
        with pytest.raises(Killed):
            index_keys(context)
    expected = {key: scan(context.engine, key) for key in KEYS}
    assert {key: look_up(context.engine, key) for key in KEYS} == expected
    index_keys(context)
    assert {key: look_up(context.engine, key) for key in KEYS} == expected
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
    assert count_segments(context.engine) == 1


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
