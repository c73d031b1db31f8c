"""`audit verify` accepts that rows are missing if `audit prune` removed them, and only then."""

from collections.abc import Iterator
from unittest import mock

import pytest
from sqlalchemy import Engine

from tests.support.audit_log.pruned_log import OLD, RunPrune, forget_checkpoints
from tests.support.audit_log.stored_tables import Row, StoredTables
from tests.support.audit_log.trials import stored_tables, verified
from tests.support.builders.messages import grant_message
from tests.support.builders.services import InProcessService
from worker.proof import prune as prune_module
from worker.shared.months import format_month


@pytest.fixture
def pruned(engine: Engine, run: RunPrune) -> Iterator[StoredTables]:
    """The tables of a log after a prune, which removed one chunk of three items."""
    forget_checkpoints(engine)  # those of this test are signed by nobody
    assert run("--yes", "--without-checkpoint").exit_code == 0
    with stored_tables(engine) as tables:
        yield tables


def hide(tables: StoredTables, chunk: Row) -> None:
    """Remove the items of a chunk, and date it back to the month that was pruned."""
    tables.execute("DELETE FROM grants WHERE batch_number = ?", chunk["batch_number"])
    tables.update("chunks", chunk, issued_at=f"{format_month(OLD)}-04 00:00:00.000000")


def test_removed_chunks_are_counted_as_pruned(engine: Engine, pruned: StoredTables) -> None:
    assert pruned.rows("grants") != []
    result = verified(engine)
    assert (result.problems, result.counts["pruned"], result.counts["items"]) == ([], 3, 1)


def test_a_chunk_that_is_older_than_the_prune_cannot_be_hidden_as_pruned(
    engine: Engine, pruned: StoredTables
) -> None:
    hide(pruned, chunk := pruned.rows("chunks")[-1])
    (problem,) = verified(engine).problems
    assert (problem.table, problem.text, problem.chunk) == ("item_edges", "is missing", 0)
    batch = pruned.rows("batches", "batch_number = ?", chunk["batch_number"])[0]
    assert problem.batch == batch["batch_id"]


def test_a_chunk_that_is_newer_than_the_prune_cannot_be_hidden_as_pruned(
    engine: Engine, service: InProcessService, pruned: StoredTables
) -> None:
    request = grant_message(["acme/new"])
    service.issue(request)
    hide(pruned, pruned.rows("chunks")[-1])
    (problem,) = verified(engine).problems
    assert (problem.batch, problem.item) == (request["batch"], 0)


def test_a_prune_that_was_interrupted_before_it_removed_anything_verifies(
    engine: Engine, run: RunPrune, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_checkpoints(engine)
    with monkeypatch.context() as patch:
        patch.setattr(prune_module, "insert_prune", mock.Mock(side_effect=KeyboardInterrupt))
        assert run("--yes", "--without-checkpoint").exit_code != 0
    result = verified(engine)
    assert (result.problems, result.counts["pruned"], result.counts["items"]) == ([], 0, 4)
    with stored_tables(engine) as tables:
        assert len(tables.rows("item_edges")) == 1
        tables.execute("UPDATE item_edges SET edge = ?", bytes(64))
    (problem,) = verified(engine).problems
    assert (problem.table, problem.text) == ("item_edges", "is not that of its items")
