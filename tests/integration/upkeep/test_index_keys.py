from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count, islice
from threading import Event, Thread

import pytest
from alembic import command
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine, func, insert, select, text, tuple_

from models import Chunk, Grant, KeyPage, KeySegment, UnindexedChunk
from tests.support.builders import services
from tests.support.builders.audit_rows import AuditedBatch
from tests.support.builders.messages import Clock
from worker.aws.clients import S3Clients
from worker.commands.database import alembic_config
from worker.context import Context
from worker.db.engine import create_database_engine, read_transaction, write_transaction
from worker.db.key_lookup import entries, find, segments
from worker.db.key_lookup.entries import Position
from worker.db.key_lookup.find import find_positions
from worker.jobs.single_flight import JobRun
from worker.usecases.upkeep import index_keys as job
from worker.usecases.upkeep.index_keys import index_keys

KEYS = [f"acme/{name}" for name in ("a.pdf", "b.pdf", "c/ü.png", "d", "e", "f")]
ABSENT = "acme/absent.pdf"


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def context(engine: Engine, clock: Clock) -> Context:
    return services.build_context(engine, S3Clients(), clock)


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few rows fill several pages, and a few segments be merged."""
    monkeypatch.setattr(job, "MIN_CHUNKS", 2)
    monkeypatch.setattr(job, "MAX_CHUNKS", 3)
    monkeypatch.setattr(job, "MERGED_SEGMENTS", 2)
    monkeypatch.setattr(job, "_ENTRIES_PER_STEP", 4)
    monkeypatch.setattr(entries, "_MAX_PAGE_ENTRIES", 2)


@pytest.fixture
def _colliding_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give all keys one of two hashes."""
    for module in (entries, find):
        monkeypatch.setattr(module, "hash_key", lambda key: bytes(3) + bytes([len(key) % 2]))


def scan(engine: Engine, object_key: str, before: Position | None = None) -> list[Position]:
    query = select(Grant.batch_number, Grant.item_number).where(Grant.object_key == object_key)
    if before is not None:
        query = query.where(tuple_(Grant.batch_number, Grant.item_number) < tuple_(*before))
    with read_transaction(engine) as connection:
        return sorted((Position(*row) for row in connection.execute(query)), reverse=True)


def look_up(engine: Engine, object_key: str, before: Position | None = None) -> list[Position]:
    """Return the positions that a search finds and whose key is the one searched for."""
    with read_transaction(engine) as connection:
        found = list(find_positions(connection, object_key, before))
        key_of = {
            Position(*position): key
            for *position, key in connection.execute(
                select(Grant.batch_number, Grant.item_number, Grant.object_key)
            )
        }
    assert found == sorted(set(found), reverse=True)
    return [position for position in found if key_of[position] == object_key]


def write_batch(engine: Engine, number: int, keys: list[str], chunk_size: int = 2) -> None:
    with write_transaction(engine) as connection:
        AuditedBatch(number, keys, chunk_size=chunk_size).write(connection)


def segment_states(engine: Engine) -> dict[str, int]:
    query = select(KeySegment.state, func.count()).group_by(KeySegment.state)
    with read_transaction(engine) as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


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
        job._index_chunks(self.context)

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


def add_chunk(engine: Engine, batch: int, chunk: int, key: str) -> None:
    with write_transaction(engine) as connection:
        template = connection.execute(
            select(Chunk.__table__).where(Chunk.batch_number == batch, Chunk.chunk_number == 0)
        ).one()
        connection.execute(insert(Chunk), template._asdict() | {"chunk_number": chunk})
        size = connection.scalar(
            text("SELECT chunk_size FROM batches WHERE batch_number = :batch"), {"batch": batch}
        )
        item = {"batch_number": batch, "item_number": chunk * size, "object_key": key}
        connection.execute(insert(Grant), item)


def kill_after(patch: pytest.MonkeyPatch, transactions: int) -> None:
    """Let the job end at the start of its next transaction that writes, after so many."""
    left = iter(range(transactions))

    def begin(engine: Engine) -> object:
        if next(left, None) is None:
            raise Killed
        return write_transaction(engine)

    patch.setattr(job, "write_transaction", begin)


def test_a_search_finds_what_a_scan_finds(context: Context) -> None:
    KeyLookupMachine.numbers = count(1)
    run_state_machine_as_test(
        lambda: KeyLookupMachine(context),  # type: ignore[arg-type] # any callable will do
        settings=settings(max_examples=4, stateful_step_count=12, deadline=None),
    )
    assert segment_states(context.engine)["complete"] > 0


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
    assert entry_count(context.engine) == 8 * len(KEYS)


def entry_count(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        contents = connection.scalars(select(KeyPage.entries)).all()
    return sum(len(content) for content in contents) // entries.ENTRY_BYTES


def test_rows_are_found_that_existed_before_the_lookup_did(context: Context) -> None:
    engine = context.engine
    with engine.connect() as connection:
        command.downgrade(alembic_config(connection), "0006_trees")
    write_batch(engine, 1, KEYS)
    with engine.connect() as connection:
        command.upgrade(alembic_config(connection), "head")
    assert look_up(engine, KEYS[0]) == [Position(1, 0)]
    assert index_keys(context)["indexed_chunks"] == 3
    assert look_up(engine, KEYS[0]) == [Position(1, 0)]


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
    insert_pages = segments.insert_pages

    def stop(*args: object) -> None:
        insert_pages(*args)  # type: ignore[arg-type]
        if "building" in segment_states(context.engine):
            run.stop()

    with monkeypatch.context() as patch:
        patch.setattr(segments, "insert_pages", stop)
        index_keys(context, run)
    assert run.is_stopping
    assert "building" not in segment_states(context.engine)


def test_a_search_needs_only_the_newest_segments_of_a_frequent_key(context: Context) -> None:
    for number in range(1, 60):
        write_batch(context.engine, number, [KEYS[0], f"acme/{number}"])
    index_keys(context)
    with read_transaction(context.engine) as connection:
        newest = list(islice(find_positions(connection, KEYS[0]), 5))
    assert newest == scan(context.engine, KEYS[0])[:5]


@pytest.fixture
def other_context(engine: Engine) -> Iterator[Context]:
    """The context of another process."""
    other = create_database_engine(engine.url.render_as_string(hide_password=False))
    yield services.build_context(other, S3Clients(), lambda: datetime.now(UTC))
    other.dispose()


def test_what_was_committed_before_a_search_is_found_while_two_processes_index(
    context: Context, other_context: Context
) -> None:
    committed: list[int] = []
    done, errors = Event(), list[BaseException]()

    def repeat(process: Context) -> None:
        try:
            while not done.is_set():
                index_keys(process)
        except BaseException as error:  # noqa: BLE001 - reported by the test
            errors.append(error)

    threads = [Thread(target=repeat, args=(each,)) for each in (context, other_context)]
    for thread in threads:
        thread.start()
    try:
        for number in range(1, 41):
            write_batch(context.engine, number, [KEYS[0], f"acme/{number}"], 1)
            committed.append(number)
            expected = [Position(number, 0) for number in reversed(committed)]
            with read_transaction(context.engine) as connection:
                assert list(find_positions(connection, KEYS[0])) == expected
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert errors == []
    index_keys(context)
    with read_transaction(context.engine) as connection:
        left = connection.scalar(select(func.count()).select_from(UnindexedChunk))
    assert left is not None
    assert left < job.MIN_CHUNKS
