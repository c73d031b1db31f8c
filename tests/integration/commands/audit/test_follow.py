import json
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from subprocess import PIPE, Popen

import pytest
from sqlalchemy import Engine

from tests.support.builders.audit_rows import MORNING, AuditedBatch
from worker.commands.audit.grants import follow
from worker.commands.audit.grants.follow import follow_grants
from worker.db.audit.filters import GrantFilter
from worker.db.engine import write_transaction
from worker.db.tree.append import NewLeaf, append_leaf

Next = Callable[[], list[str]]


def write(engine: Engine, *batches: AuditedBatch) -> None:
    with write_transaction(engine) as connection:
        for batch in batches:
            batch.write(connection)
            append_leaf(connection, batch.tenant, NewLeaf("batch", bytes(32), batch.number, 0))


@pytest.fixture
def following(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Next:
    """A log of one batch, and a function that returns the keys of the next block of rows."""
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    write(engine, AuditedBatch(2, ["acme/1", "acme/2"]))
    blocks = follow_grants(engine, GrantFilter(tenant="acme"), limit=10)
    return lambda: [record.key for record in next(blocks)]


def test_a_page_is_printed_oldest_first_and_then_what_is_committed(
    engine: Engine, following: Next
) -> None:
    assert following() == ["acme/1", "acme/2"]
    write(engine, AuditedBatch(3, ["acme/3", "acme/4"]))
    assert following() == ["acme/3", "acme/4"]
    write(engine, AuditedBatch(4, ["globex/1"], tenant="globex"), AuditedBatch(5, ["acme/5"]))
    assert following() == ["acme/5"]


def test_a_batch_that_is_committed_after_one_with_a_larger_number_is_not_missed(
    engine: Engine, following: Next
) -> None:
    following()
    write(engine, AuditedBatch(4, ["acme/4"]))
    assert following() == ["acme/4"]
    write(engine, AuditedBatch(3, ["acme/3"], decided_at=MORNING - timedelta(hours=1)))
    assert following() == ["acme/3"]


def test_a_later_chunk_of_an_old_batch_is_not_missed(engine: Engine, following: Next) -> None:
    following()
    write(engine, AuditedBatch(1, ["acme/a", "acme/b", "acme/c"]))
    assert following() == ["acme/a", "acme/b"]
    with write_transaction(engine) as connection:
        append_leaf(connection, "acme", NewLeaf("chunk", bytes(32), 1, 1))
    assert following() == ["acme/c"]


@pytest.fixture
def process(engine: Engine) -> Iterator[Popen[str]]:
    write(engine, AuditedBatch(1, ["acme/1"]))
    command = (sys.executable, "-m", "worker", "audit", "list", "--follow", "--json")
    with Popen(command, stdout=PIPE, stderr=PIPE, text=True) as process:
        yield process
        process.kill()


def next_key(process: Popen[str]) -> str:
    assert process.stdout is not None
    key: str = json.loads(process.stdout.readline())["key"]
    return key


def test_an_interrupt_ends_it_without_a_traceback(engine: Engine, process: Popen[str]) -> None:
    assert next_key(process) == "acme/1"
    write(engine, AuditedBatch(2, ["acme/2"]))
    assert next_key(process) == "acme/2"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, "")


def test_a_reader_that_closes_the_pipe_ends_it_without_a_traceback(
    engine: Engine, process: Popen[str]
) -> None:
    assert next_key(process) == "acme/1"
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    write(engine, AuditedBatch(2, ["acme/2"]))
    assert process.wait(timeout=30) == 1
    assert process.stderr.read() == ""
