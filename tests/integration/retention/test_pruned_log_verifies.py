"""`audit verify` accepts that rows are missing if `audit prune` removed them, and only then."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import Engine

from tests.support.audit_log.pruned_log import OLD, RunPrune, forget_checkpoints
from tests.support.audit_log.stored_tables import Row, StoredTables
from tests.support.builders.messages import Clock, grant_message
from tests.support.builders.services import InProcessService
from worker.db.audit.changes import ChangeAuthor
from worker.db.retention.months import format_month
from worker.usecases.audit.adopt import adopt_rows
from worker.usecases.audit.verification.verify import Verification, VerifyOptions, verify_log


@pytest.fixture
def pruned(engine: Engine, run: RunPrune) -> Iterator[StoredTables]:
    """The tables of a log after a prune, which removed one chunk of three items."""
    forget_checkpoints(engine)  # those of this test are signed by nobody
    assert run("--yes", "--without-checkpoint").exit_code == 0
    with closing(StoredTables(engine.url.render_as_string(hide_password=False))) as tables:
        yield tables


def verified(engine: Engine) -> Verification:
    url = engine.url.render_as_string(hide_password=False)
    return verify_log(url, VerifyOptions(max_problems=9))


def hide(tables: StoredTables, chunk: Row) -> None:
    """Remove the items of a chunk, and date it back to the month that was pruned."""
    tables.execute("DELETE FROM grants WHERE batch_number = ?", chunk["batch_number"])
    tables.update("chunks", chunk, issued_at=f"{format_month(OLD)}-04 00:00:00.000000")


def test_removed_chunks_are_counted_as_pruned(engine: Engine, pruned: StoredTables) -> None:
    assert pruned.rows("grants") != []
    result = verified(engine)
    assert (result.problems, result.pruned, result.items) == ([], 3, 1)


def test_a_chunk_that_is_older_than_the_prune_cannot_be_hidden_as_pruned(
    engine: Engine, pruned: StoredTables
) -> None:
    hide(pruned, pruned.rows("chunks")[-1])
    (problem,) = verified(engine).problems
    assert (problem.table, problem.tenant) == ("prunes", "acme")
    assert "3 items of 1 chunks, and" in problem.text


def test_a_chunk_that_is_newer_than_the_prune_cannot_be_hidden_as_pruned(
    engine: Engine, service: InProcessService, pruned: StoredTables
) -> None:
    request = grant_message(["acme/new"])
    service.issue(request)
    hide(pruned, pruned.rows("chunks")[-1])
    (problem,) = verified(engine).problems
    assert (problem.batch, problem.item) == (request["batch"], 0)


def test_the_counts_of_a_pruned_chunk_cannot_be_changed(
    engine: Engine, pruned: StoredTables
) -> None:
    chunk = pruned.rows("chunks")[0]
    pruned.update("chunks", chunk, refused=chunk["refused"] + 1)
    (problem,) = verified(engine).problems
    assert (problem.table, problem.tenant) == ("prunes", "acme")


def test_chunks_that_were_adopted_after_a_prune_verify(
    engine: Engine, run: RunPrune, clock: Clock
) -> None:
    with closing(StoredTables(engine.url.render_as_string(hide_password=False))) as tables:
        for table in ("leaves", "tree_heads", "checkpoints"):
            tables.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
    assert run("--yes", "--without-checkpoint").exit_code == 0
    assert verified(engine).uncovered
    adopt_rows(engine, clock(), ChangeAuthor(clock(), "alice", "audit adopt"))
    result = verified(engine)
    assert (result.problems, result.uncovered, result.pruned) == ([], {}, 3)


def test_items_of_a_kept_chunk_must_be_there(engine: Engine, pruned: StoredTables) -> None:
    chunk = pruned.rows("chunks")[-1]
    pruned.execute("DELETE FROM grants WHERE batch_number = ?", chunk["batch_number"])
    (problem,) = verified(engine).problems
    assert (problem.table, problem.item, problem.text) == ("grants", 0, "is missing")


def test_the_record_of_a_prune_cannot_be_changed(engine: Engine, pruned: StoredTables) -> None:
    pruned.execute("UPDATE prunes SET items = items + 1, chunks = chunks + 1")
    problems = verified(engine).problems
    assert problems[0].table == "prunes"
    assert "differs from what leaf" in problems[0].text
