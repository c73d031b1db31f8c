"""`audit verify` knows what settlements gave back, and that pruned rows are gone."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.audit_log.stored_tables import StoredTables
from tests.support.audit_log.trials import stored_tables, verified
from tests.support.builders.messages import Clock, tenant_config, upload_message
from tests.support.builders.services import InProcessService
from tests.support.uses.reports import stored
from tests.support.uses.settlements import settle
from worker.uses.use_recorder import record_uses

KEYS = ("acme/a.png", "acme/b.png")
RETURNED = 500_000


@pytest.fixture
def tables(
    engine: Engine, service: InProcessService, clock: Clock, apply_config: ApplyConfig
) -> Iterator[StoredTables]:
    """The tables of a log with one used slot, and one that is given back."""
    apply_config(tenant_config())
    items = service.issue(upload_message(KEYS))["items"]
    record_uses([stored(items[0]["id"], KEYS[0], clock())], service.context)
    settle(engine, 1, 0, clock(), unused="1", returned=RETURNED)
    with stored_tables(engine) as opened:
        give_back(opened, RETURNED)
        yield opened


def give_back(tables: StoredTables, size: int) -> None:
    tables.execute(
        """UPDATE usage SET upload_bytes = upload_bytes - ? WHERE "window" <> 'live'""", size
    )


@pytest.mark.usefixtures("tables")
def test_what_a_settlement_gave_back_is_charged_no_more(engine: Engine) -> None:
    assert verified(engine).problems == []


@pytest.mark.parametrize("size", [0, RETURNED - 1, RETURNED + 1])
def test_usage_that_is_not_what_a_settlement_left_is_found(
    engine: Engine, tables: StoredTables, size: int
) -> None:
    give_back(tables, size - RETURNED)
    problems = verified(engine).problems
    assert problems
    assert all("upload_bytes are charged, and the rows cost" in each.text for each in problems)


def test_a_use_that_is_moved_to_another_tenants_batch_is_found(
    engine: Engine, tables: StoredTables
) -> None:
    batch = tables.rows("batches")[0]
    tables.insert("batches", batch | {"batch_number": 9, "tenant": "globex"})
    tables.update("uses", tables.rows("uses")[0], batch_number=9)
    assert ("uses", "belongs to batch number 9, which its tenant does not have") in {
        (found.table, found.text) for found in verified(engine).problems
    }


def test_a_group_of_uses_without_a_leaf_and_a_leaf_without_uses_are_found(
    engine: Engine, tables: StoredTables
) -> None:
    use = tables.rows("uses")[0]
    tables.update("uses", use, group_id="another")
    texts = [found.text for found in verified(engine).problems if found.table == "uses"]
    assert sorted(texts) == ["has no row, but leaf 1 covers it", "no leaf covers it"]


def test_stored_bytes_that_are_not_those_of_the_known_objects_are_found(
    engine: Engine, tables: StoredTables
) -> None:
    tables.execute("UPDATE stored_objects SET size = size + 1, is_counted = true")
    (problem,) = verified(engine).problems
    text = "window live: 0 stored_bytes are counted, and the known objects have 11"
    assert problem.text == text
