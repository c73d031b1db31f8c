"""`audit verify` knows what settlements gave back, and that pruned rows are gone."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.audit_log.stored_tables import StoredTables
from tests.support.builders.messages import Clock, tenant_config, upload_message
from tests.support.builders.services import InProcessService
from tests.support.uses.reports import stored
from tests.support.uses.settlements import settle
from worker.usecases.audit.verification.problems import Problem
from worker.usecases.audit.verification.verify import VerifyOptions, verify_log
from worker.usecases.uses.record import record_uses

KEYS = ("acme/a.png", "acme/b.png")
RETURNED = 500_000


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def problems(engine: Engine) -> list[Problem]:
    return verify_log(url_of(engine), VerifyOptions(max_problems=9)).problems


@pytest.fixture
def tables(
    engine: Engine, service: InProcessService, clock: Clock, apply_config: ApplyConfig
) -> Iterator[StoredTables]:
    """The tables of a log with one used slot, and one that is given back."""
    apply_config(tenant_config())
    items = service.issue(upload_message(KEYS))["items"]
    record_uses([stored(items[0]["id"], KEYS[0], clock())], service.context)
    settle(engine, 1, 0, clock(), unused="1", returned=RETURNED)
    with closing(StoredTables(url_of(engine))) as opened:
        yield opened


def give_back(tables: StoredTables, size: int) -> None:
    tables.execute(
        """UPDATE usage SET upload_bytes = upload_bytes - ? WHERE "window" <> 'live'""", size
    )


def test_what_a_settlement_gave_back_is_charged_no_more(
    engine: Engine, tables: StoredTables
) -> None:
    give_back(tables, RETURNED)
    assert problems(engine) == []


@pytest.mark.parametrize("size", [0, RETURNED - 1, RETURNED + 1])
def test_usage_that_is_not_what_a_settlement_left_is_found(
    engine: Engine, tables: StoredTables, size: int
) -> None:
    give_back(tables, size)
    assert {(found.table, found.column) for found in problems(engine)} == {
        ("usage", "upload_bytes")
    }


def test_a_use_that_is_moved_to_another_tenants_batch_is_found(
    engine: Engine, tables: StoredTables
) -> None:
    give_back(tables, RETURNED)
    batch = tables.rows("batches")[0]
    tables.insert("batches", batch | {"batch_number": 9, "tenant": "globex"})
    tables.update("uses", tables.rows("uses")[0], batch_number=9)
    assert ("uses", "belongs to batch number 9, which its tenant does not have") in {
        (found.table, found.text) for found in problems(engine)
    }


def test_a_group_of_uses_without_a_leaf_and_a_leaf_without_uses_are_found(
    engine: Engine, tables: StoredTables
) -> None:
    give_back(tables, RETURNED)
    use = tables.rows("uses")[0]
    tables.update("uses", use, group_id="another")
    texts = [found.text for found in problems(engine) if found.table == "uses"]
    assert "no leaf covers the group another" in texts
    assert "have no rows, but leaf 1 covers them" in texts


def test_stored_bytes_that_are_not_those_of_the_known_objects_are_found(
    engine: Engine, tables: StoredTables
) -> None:
    give_back(tables, RETURNED)
    tables.execute("UPDATE stored_objects SET size = size + 1")
    (problem,) = problems(engine)
    assert (problem.column, problem.text) == (
        "stored_bytes",
        "window live: 10 are counted, and the known objects have 11",
    )
