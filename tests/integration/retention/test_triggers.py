"""The database refuses to change the audit log, whoever asks."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, insert, inspect, text
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
from tests.support.builders.messages import grant_message, tenant_config
from tests.support.builders.services import InProcessService
from worker.db.engine import read_transaction, write_transaction
from worker.db.retention.partitions import read_partitions
from worker.db.retention.roles import APPEND_ONLY

_NOW = datetime(2026, 11, 24, tzinfo=UTC)
_ROWS = (
    insert(Cancellation).values(tenant="acme", batch_id="b", requested_by="ops", cancelled_at=_NOW),
    insert(Reissue).values(
        batch_number=1,
        chunk_number=0,
        fingerprint=b"f",
        access_key="AKID",
        reissued_at=_NOW,
        digests=b"d",
    ),
    insert(ConfigChange).values(changed_at=_NOW, changed_by="ops", command="apply", path="p"),
    insert(Checkpoint).values(tenant="acme", size=1, root=b"r", signed_at=_NOW, note="note"),
    insert(RefusedChunk).values(tenant="acme", batch_number=1, chunk_number=0),
    insert(Prune).values(
        tenant="acme",
        before="2020-01",
        pruned_by="ops",
        pruned_at=_NOW,
        chunks=0,
        items=0,
        edges=0,
        use_groups=0,
    ),
    insert(ItemEdge).values(batch_number=1, chunk_number=0, edge=b"e"),
    insert(Use).values(
        fingerprint=bytes(32),
        tenant="acme",
        batch_number=1,
        item_number=0,
        event="stored",
        source="event",
        verdict="as_granted",
        occurred_at=_NOW,
        recorded_at=_NOW,
        group_id="g",
    ),
    insert(Settlement).values(
        batch_number=1,
        chunk_number=0,
        tenant="acme",
        unused="0",
        used_bytes=0,
        returned_bytes=0,
        settled_at=_NOW,
    ),
    insert(Revocation).values(
        tenant="acme",
        revocation_id="r",
        target_kind="tenant",
        target="acme",
        grants=1,
        revoked_by="ops",
        revoked_at=_NOW,
        lapses_at=_NOW,
    ),
)


@pytest.fixture
def log(engine: Engine, apply_config: ApplyConfig, service: InProcessService) -> InProcessService:
    """An audit log with a row in each of its tables."""
    apply_config(tenant_config())
    service.issue(grant_message())
    with write_transaction(engine) as connection:
        for statement in _ROWS:
            connection.execute(statement)
    return service


def _refuses(engine: Engine, statement: str, words: str = "append only") -> None:
    with pytest.raises(DBAPIError, match=words), write_transaction(engine) as connection:
        connection.execute(text(statement))


@pytest.mark.usefixtures("log")
def test_no_row_of_the_audit_log_is_changed_or_deleted(engine: Engine) -> None:
    for table in APPEND_ONLY:
        column = next(iter(Base.metadata.tables[table].primary_key)).name
        _refuses(engine, f"UPDATE {table} SET {column} = {column}")  # noqa: S608
        _refuses(engine, f"DELETE FROM {table}")  # noqa: S608


@pytest.mark.usefixtures("log")
def test_no_row_of_the_audit_log_is_replaced(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("only SQLite has INSERT OR REPLACE")
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


@pytest.mark.usefixtures("log")
def test_a_batch_is_not_replaced_by_one_with_its_id(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("only SQLite has INSERT OR REPLACE")
    columns = [column["name"] for column in inspect(engine).get_columns("batches")]
    values = ", ".join("99" if name == "batch_number" else name for name in columns)
    _refuses(engine, f"INSERT OR REPLACE INTO batches SELECT {values} FROM batches")  # noqa: S608


@pytest.mark.usefixtures("log")
def test_the_head_of_a_tree_only_grows(engine: Engine) -> None:
    for statement in (
        "UPDATE tree_heads SET size = size - 1",
        "UPDATE tree_heads SET size = size",
        "UPDATE tree_heads SET size = size + 1, tenant = 'globex'",
        "DELETE FROM tree_heads",
    ):
        _refuses(engine, statement, "only grows")


def test_the_head_of_a_tree_grows_with_each_chunk(engine: Engine, log: InProcessService) -> None:
    query = text("SELECT size FROM tree_heads WHERE tenant = 'acme'")
    with engine.connect() as connection:
        before = connection.scalar(query)
    log.issue(grant_message())
    with engine.connect() as connection:
        assert connection.scalar(query) == before + 1


@pytest.mark.usefixtures("log")
def test_no_partition_is_changed_directly(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no partitions")
    with read_transaction(engine) as connection:
        names = [partition.name for partition in read_partitions(connection)]
    assert len(names) == 3
    for name in (*names, "grants_default", "grants"):
        _refuses(engine, f"UPDATE {name} SET item_number = 0")  # noqa: S608
        _refuses(engine, f"DELETE FROM {name}")  # noqa: S608
        _refuses(engine, f"TRUNCATE {name}")


@pytest.mark.usefixtures("log")
def test_no_table_of_the_audit_log_is_truncated(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no TRUNCATE")
    for table in (*APPEND_ONLY, "tree_heads"):
        _refuses(engine, f"TRUNCATE {table} CASCADE")
