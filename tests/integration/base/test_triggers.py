"""The database refuses to change the audit log, whoever asks."""

from contextlib import suppress

import pytest
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from models import (
    Base,
    Cancellation,
    Checkpoint,
    ConfigChange,
    ItemEdge,
    Prune,
    RefusedChunk,
    Reissue,
    Revocation,
    Settlement,
    Use,
)
from tests.integration.conftest import ApplyConfig
from tests.support.builders.any_row import insert_any
from tests.support.builders.messages import grant_message, tenant_config
from tests.support.builders.services import InProcessService
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.month_partitions import read_partitions
from worker.cli.database_roles import APPEND_ONLY

_MODELS = (
    *(Cancellation, Reissue, ConfigChange, Checkpoint, RefusedChunk, Prune),
    *(ItemEdge, Use, Settlement, Revocation),
)


@pytest.fixture(autouse=True)
def _log(engine: Engine, apply_config: ApplyConfig, service: InProcessService) -> None:
    """An audit log with a row in each of its tables."""
    apply_config(tenant_config())
    service.issue(grant_message())
    with write_transaction(engine) as connection:
        for model in _MODELS:
            connection.execute(insert_any(model))


def _refuses(engine: Engine, statement: str, words: str = "append only") -> None:
    with pytest.raises(DBAPIError, match=words), write_transaction(engine) as connection:
        connection.execute(text(statement))


def test_no_row_of_the_audit_log_is_changed_or_deleted(engine: Engine) -> None:
    for table in APPEND_ONLY:
        column = next(iter(Base.metadata.tables[table].primary_key)).name
        _refuses(engine, f"UPDATE {table} SET {column} = {column}")  # noqa: S608
        _refuses(engine, f"DELETE FROM {table}")  # noqa: S608


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_row_of_the_audit_log_is_replaced(engine: Engine) -> None:
    for table in (*APPEND_ONLY, "tree_heads"):
        before = _rows(engine, table)
        _try_to_replace(engine, table)
        assert (table, before) == (table, _rows(engine, table))
        assert before != []


def _try_to_replace(engine: Engine, table: str) -> None:
    key = {column.name for column in Base.metadata.tables[table].primary_key}
    columns = [column["name"] for column in inspect(engine).get_columns(table)]
    changed = next((name for name in reversed(columns) if name not in key), None)
    values = ", ".join("'x'" if name == changed else name for name in columns)
    statement = f"INSERT OR REPLACE INTO {table} SELECT {values} FROM {table}"  # noqa: S608
    # A row of some tables is ignored, so that ON CONFLICT DO NOTHING still works.
    with suppress(IntegrityError), write_transaction(engine) as connection:
        connection.execute(text(statement))


def _rows(engine: Engine, table: str) -> list[object]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT * FROM {table}"))]  # noqa: S608


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_batch_is_not_replaced_by_one_with_its_id(engine: Engine) -> None:
    columns = [column["name"] for column in inspect(engine).get_columns("batches")]
    values = ", ".join("99" if name == "batch_number" else name for name in columns)
    _refuses(engine, f"INSERT OR REPLACE INTO batches SELECT {values} FROM batches")  # noqa: S608


def test_the_head_of_a_tree_only_grows(engine: Engine) -> None:
    for statement in (
        "UPDATE tree_heads SET size = size - 1",
        "UPDATE tree_heads SET size = size",
        "UPDATE tree_heads SET size = size + 1, tenant = 'globex'",
        "DELETE FROM tree_heads",
    ):
        _refuses(engine, statement, "only grows")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_no_partition_is_changed_directly(engine: Engine) -> None:
    with read_transaction(engine) as connection:
        names = [partition.name for partition in read_partitions(connection)]
    assert len(names) == 3
    for name in (*names, "grants_default", "grants"):
        _refuses(engine, f"UPDATE {name} SET item_number = 0")  # noqa: S608
        _refuses(engine, f"DELETE FROM {name}")  # noqa: S608
        _refuses(engine, f"TRUNCATE {name}")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_no_table_of_the_audit_log_is_truncated(engine: Engine) -> None:
    for table in (*APPEND_ONLY, "tree_heads"):
        _refuses(engine, f"TRUNCATE {table} CASCADE")
