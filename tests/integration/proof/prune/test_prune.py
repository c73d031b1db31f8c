"""`audit prune` removes the grants of old months, and nothing that is still needed."""

from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError

from models import Batch, Chunk, Prune
from tests.support.audit_log.pruned_log import ALL, KEPT, RunPrune, count, keys
from tests.support.builders.services import InProcessService
from tests.support.cli.groups import audit
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.month_partitions import add_months
from worker.proof import prune as prune_module
from worker.shared.months import format_month


def test_grants_before_the_month_are_removed(engine: Engine, run: RunPrune) -> None:
    result = run("--yes")
    assert (result.exit_code, keys(engine)) == (0, ["acme/kept"])
    assert "Removed 3 grants" in result.output


def test_a_dry_run_shows_what_would_be_removed(engine: Engine, run: RunPrune) -> None:
    result = run("--dry-run")
    assert (result.exit_code, keys(engine), count(engine, Prune)) == (0, ALL, 0)
    assert "before " + format_month(KEPT) + ": 3" in result.output


def test_a_later_prune_counts_only_what_it_removes(engine: Engine, run: RunPrune) -> None:
    run("--yes")
    assert run("--yes", before=add_months(KEPT, 1)).exit_code == 0
    with read_transaction(engine) as connection:
        assert list(connection.scalars(select(Prune.items).order_by(Prune.prune_number))) == [3, 1]
    assert keys(engine) == []


def test_without_a_terminal_it_needs_yes(engine: Engine, run: RunPrune) -> None:
    result = run()
    assert (result.exit_code, keys(engine)) == (1, ALL)
    assert "give --yes" in result.output


def test_a_reopened_chunk_is_refused(
    service: InProcessService, run: RunPrune, old: dict[str, Any]
) -> None:
    run("--yes")
    message = {"v": 1, "ask": "batch", "tenant": "acme", "batch": old["batch"]}
    assert service.issue(message)["decided"] == 1
    reply = service.issue(message | {"chunk": 0})
    assert (reply["status"], reply["refusal"]["code"]) == ("refused", "batch_closed")


def test_a_pruned_chunk_is_explained_as_it_is_decided(
    service: InProcessService, run: RunPrune, old: dict[str, Any]
) -> None:
    run("--yes")
    explained = service.issue(old | {"ask": "explain"})
    refusals = [rule["refusal"] for rule in explained["rules"] if "refusal" in rule]
    assert refusals == [service.issue(old)["refusal"]]


def test_rows_are_protected_after_a_prune(engine: Engine, run: RunPrune) -> None:
    run("--yes")
    with pytest.raises(DBAPIError, match="append only"), write_transaction(engine) as connection:
        connection.execute(text("DELETE FROM grants"))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_interrupted_prune_goes_on(
    engine: Engine, run: RunPrune, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(prune_module, "delete_items", mock.Mock(side_effect=KeyboardInterrupt))
        assert run("--yes").exit_code != 0
    assert keys(engine) == ALL
    result = run("--yes")
    assert "An earlier prune was interrupted" in result.output
    assert (result.exit_code, keys(engine), count(engine, Prune)) == (0, ["acme/kept"], 1)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_each_transaction_deletes_few_rows(
    engine: Engine, run: RunPrune, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    delete = prune_module.delete_items

    def record(connection: Any, chunks: Any) -> int:
        sizes.append(sum(chunk.items for chunk in chunks))
        return delete(connection, chunks)

    monkeypatch.setattr(prune_module, "delete_items", record)
    monkeypatch.setattr(prune_module, "MAX_ROWS", 3)
    run("--yes", before=add_months(KEPT, 1))
    assert sizes == [3, 1]
    assert keys(engine) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_items_of_all_chunks_of_a_transaction_are_read_at_once(
    run: RunPrune, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    insert = prune_module.insert_item_edges

    def record(connection: Any, chunks: Any) -> int:
        queries: list[str] = []
        driver = connection.connection.driver_connection
        driver.set_trace_callback(lambda sql: queries.append(sql[:6]))
        inserted = insert(connection, chunks)
        driver.set_trace_callback(None)
        calls.append((len(chunks), queries.count("SELECT")))
        return inserted

    monkeypatch.setattr(prune_module, "insert_item_edges", record)
    run("--yes", before=add_months(KEPT, 1))
    assert calls == [(2, 2)]  # one of items, one of texts


@pytest.mark.parametrize(
    ("words", "notices"),
    [
        ("list", 1),
        ("count --by code", 1),
        ("count --by key", 1),
        ("top keys", 1),
        ("export", 1),
        ("count --by tenant", 0),
        (f"list --since {format_month(KEPT)}", 0),
    ],
)
def test_a_command_says_that_items_were_removed_if_its_answer_lacks_some(
    run: RunPrune, words: str, notices: int
) -> None:
    run("--yes")
    result = CliRunner().invoke(audit, words.split())
    assert result.exit_code == 0, result.output
    text = f"`audit prune` removed the items of chunks that were issued before {format_month(KEPT)}"
    assert " ".join(result.stderr.split()).count(text) == notices


@pytest.mark.parametrize("command", ["show", "whose"])
def test_a_removed_grant_is_said_to_be_removed(engine: Engine, run: RunPrune, command: str) -> None:
    with read_transaction(engine) as connection:
        query = select(Batch.batch_id).join(Chunk, Chunk.batch_number == Batch.batch_number)
        batch = connection.scalar(query.where(Batch.tenant == "acme").order_by(Chunk.issued_at))
    run("--yes")
    result = CliRunner().invoke(audit, [command, f"{batch}.0"])
    assert result.exit_code != 0
    assert f"audit prune --before {format_month(KEPT)}" in result.stderr
