"""The database refuses to change the audit log, whoever asks."""

from contextlib import suppress

import pytest
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from models import (
    Annotation,
    Base,
    Batch,
    Cancellation,
    Checkpoint,
    ConfigChange,
    Erasure,
    ItemEdge,
    Prune,
    RefusedChunk,
    Reissue,
    Revocation,
    Settlement,
    Use,
)
from models.schema import APPEND_ONLY
from tests.integration.conftest import ApplyConfig
from tests.support.builders.any_row import insert_any
from tests.support.builders.messages import grant_message, tenant_config
from tests.support.builders.services import InProcessService
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.month_partitions import read_partitions
from worker.rules.annotations import salted

_MODELS = (
    *(Reissue, ConfigChange, Erasure, Checkpoint, RefusedChunk, Prune),
    *(ItemEdge, Use, Settlement, Revocation),
)


@pytest.fixture(autouse=True)
def _log(engine: Engine, apply_config: ApplyConfig, service: InProcessService) -> None:
    """An audit log with a row in each of its tables."""
    apply_config(tenant_config())
    request = grant_message()
    request["items"][0] |= {"recipient": "ann", "reason": "case 4711", "ref": "mail-17"}
    service.issue(request)
    with write_transaction(engine) as connection:
        for model in _MODELS:
            connection.execute(insert_any(model))
        connection.execute(
            insert_any(Cancellation, **salted({"requested_by": "ann", "reason": "r"}))
        )


def _refuses(engine: Engine, statement: str, words: str = "append only") -> None:
    with pytest.raises(DBAPIError, match=words), write_transaction(engine) as connection:
        connection.execute(text(statement))


def test_no_row_of_the_audit_log_is_changed_or_deleted(engine: Engine) -> None:
    for table in APPEND_ONLY:
        column = next(iter(Base.metadata.tables[table].primary_key)).name
        _refuses(engine, f"UPDATE {table} SET {column} = {column}")  # noqa: S608
        _refuses(engine, f"DELETE FROM {table}")  # noqa: S608


_TEXTS = [
    (model, name)
    for model, names in {
        Batch: ("requested_by", "reason"),
        Annotation: ("recipient", "reason", "ref"),
        Cancellation: ("requested_by", "reason"),
    }.items()
    for name in names
]


@pytest.mark.parametrize(("model", "name"), _TEXTS)
def test_a_text_of_a_producer_can_only_be_erased(
    service: InProcessService, engine: Engine, model: type[Base], name: str
) -> None:
    table, salt = model.__tablename__, f"{name}_salt"
    for change in (
        f"{name} = 'another'",
        f"{name} = NULL",  # without its commitment
        f"{salt} = {_bytes(engine, 32)}",
        f"{name} = NULL, {salt} = NULL",
        f"{name} = NULL, {salt} = {_bytes(engine, 31)}",
    ):
        _refuses(engine, f"UPDATE {table} SET {change}")  # noqa: S608
    erased = f"{name} = NULL, {salt} = {_bytes(engine, 32)}"
    with write_transaction(engine) as connection:
        connection.execute(text(f"UPDATE {table} SET {erased}"))  # noqa: S608
    assert [row[0] for row in service.rows(getattr(model, name))] == [None]
    for change in (f"{name} = 'again'", f"{salt} = {_bytes(engine, 16)}"):
        _refuses(engine, f"UPDATE {table} SET {change}")  # noqa: S608


def _bytes(engine: Engine, count: int) -> str:
    """Return an SQL literal of zero bytes."""
    return f"x'{'00' * count}'" if engine.dialect.name == "sqlite" else f"'\\x{'00' * count}'"


def test_the_salt_of_a_request_can_only_be_erased(
    service: InProcessService, engine: Engine
) -> None:
    _refuses(engine, f"UPDATE batches SET request_salt = {_bytes(engine, 16)}")  # noqa: S608
    with write_transaction(engine) as connection:
        connection.execute(text("UPDATE batches SET request_salt = NULL"))
    assert service.rows(Batch.request_salt) == [(None,)]


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
