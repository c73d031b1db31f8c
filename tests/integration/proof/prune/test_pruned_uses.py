"""`audit prune` removes uses and settlements with the grants, and the log still verifies."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import Engine, select

from models import Batch, EndedSlot, Prune, Settlement, StoredObject, Use
from tests.support.audit_log.pruned_log import KEPT, OLD, RunPrune, count, forget_checkpoints
from tests.support.audit_log.stored_tables import StoredTables
from tests.support.audit_log.trials import stored_tables, verified
from tests.support.builders.any_row import insert_any
from tests.support.builders.messages import Clock, tenant_config, upload_message
from tests.support.builders.services import InProcessService
from tests.support.uses.reports import deleted, stored
from tests.support.uses.settlements import settle
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.month_partitions import add_months
from worker.proof import prune as prune_module
from worker.shared.months import first_moment
from worker.uses.use_recorder import record_uses


@pytest.fixture
def old(
    engine: Engine, service: InProcessService, apply_config: Any, clock: Clock
) -> dict[str, Any]:
    """Two batches of two months, each with an object that is deleted and a settled chunk."""
    apply_config(tenant_config())
    requests = []
    for month in (OLD, KEPT):
        clock.time = first_moment(month) + timedelta(days=3)
        key = f"acme/{month}"
        request = upload_message([key, f"{key}/unused"])
        requests.append(request)
        item = service.issue(request)["items"][0]
        record_uses([stored(item["id"], key, clock())], service.context)
        clock.forward(minutes=30)
        record_uses([deleted(key, clock())], service.context)
        settle(engine, len(requests), 0, clock(), unused="1")
    # A use of the old month that is recorded in the kept one.
    late = stored(f"{requests[0]['batch']}.0", f"acme/{OLD}", clock(), etag="late")
    record_uses([late], service.context)
    return requests[0]


@pytest.fixture
def prune(engine: Engine, run: RunPrune) -> RunPrune:
    forget_checkpoints(engine)  # those of this test are signed by nobody
    return lambda *words, **options: run("--yes", "--without-checkpoint", *words, **options)


@pytest.fixture
def tables(engine: Engine) -> Iterator[StoredTables]:
    with stored_tables(engine) as opened:
        yield opened


def counts(engine: Engine) -> list[int]:
    return [count(engine, table) for table in (Use, Settlement, StoredObject)]


def test_uses_and_settlements_are_removed_and_the_log_verifies(
    engine: Engine, prune: RunPrune
) -> None:
    assert counts(engine) == [5, 2, 2]
    result = prune()
    assert result.exit_code == 0, result.output
    # The late use was recorded in the kept month, with the row of its object.
    assert counts(engine) == [3, 1, 2]
    with read_transaction(engine) as connection:
        assert connection.scalar(select(Prune.use_groups)) == 2
    found = verified(engine)
    assert (found.problems, found.counts["uses"], found.counts["settlements"]) == ([], 3, 1)
    assert "nothing to remove" in prune().output


def test_a_later_prune_removes_the_rest(engine: Engine, prune: RunPrune) -> None:
    prune()
    assert prune(before=add_months(KEPT, 1)).exit_code == 0
    assert counts(engine) == [0, 0, 1]  # the object that the late use stored is still there
    found = verified(engine)
    assert (found.problems, found.counts["uses"], found.counts["settlements"]) == ([], 0, 0)


def test_a_kept_use_cannot_be_hidden_as_pruned(
    engine: Engine, prune: RunPrune, tables: StoredTables
) -> None:
    prune()
    kept = tables.rows("uses", "recorded_at > ?", first_moment(KEPT).isoformat(" "))
    tables.delete("uses", kept[0])
    (problem,) = verified(engine).problems
    assert problem.table == "prunes"
    assert "record the removal of 2 groups of uses, and 3 are missing" in problem.text


def test_a_kept_settlement_cannot_be_hidden_as_pruned(
    engine: Engine, prune: RunPrune, tables: StoredTables
) -> None:
    prune()
    tables.delete("settlements", tables.rows("settlements")[0])
    (problem,) = verified(engine).problems
    assert (problem.table, problem.chunk) == ("settlements", 0)


def test_slots_that_are_not_settled_are_not_pruned(engine: Engine, prune: RunPrune) -> None:
    with write_transaction(engine) as connection:
        number = connection.scalar(select(Batch.batch_number).order_by(Batch.batch_number))
        connection.execute(insert_any(EndedSlot, batch_number=number, chunk_number=0))
    result = prune()
    assert result.exit_code == 1
    assert "1 chunks of upload slots that are not settled" in result.output


def test_an_interrupted_removal_of_uses_goes_on(
    engine: Engine, prune: RunPrune, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(prune_module, "delete_old_rows", mock.Mock(side_effect=KeyboardInterrupt))
        assert prune().exit_code != 0
    assert verified(engine).problems == []
    result = prune()
    assert "An earlier prune was interrupted" in result.output
    assert counts(engine) == [3, 1, 2]
    assert (verified(engine).problems, count(engine, Prune)) == ([], 1)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_transactions_that_delete_uses_do_not_read_kept_ones(
    engine: Engine, prune: RunPrune, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"recorded_at": clock(), "batch_number": 2}
    with write_transaction(engine) as connection:
        for number in range(1_000):
            own = {"fingerprint": number.to_bytes(32, "big"), "group_id": f"{number:036}"}
            connection.execute(insert_any(Use, **kept, **own))
    steps: list[None] = []
    delete = prune_module.delete_old_rows

    def record(connection: Any, *args: Any) -> Any:
        driver = connection.connection.driver_connection
        driver.set_progress_handler(lambda: steps.append(None), 1)
        deleted = delete(connection, *args)
        driver.set_progress_handler(None, 1)
        return deleted

    monkeypatch.setattr(prune_module, "delete_old_rows", record)
    prune()
    assert 0 < len(steps) < 8_000
