"""Workers of the previous release go on while the tables are migrated on PostgreSQL."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from alembic import command
from click import ClickException
from sqlalchemy import Connection, Engine, text

from tests.support.servers.waiting import wait_until
from worker.commands.database import alembic_config, migrate_to_head
from worker.db.engine import create_database_engine

BATCH = """INSERT INTO batches (batch_id, tenant, bucket, kind, requested_by, terms, total,
    chunk_size, fingerprint, decided_at)
    VALUES (:id, 'acme', 'demo', 'download', 'me', '{}', 1, 1, '', now()) RETURNING batch_number"""
CHUNK = """INSERT INTO chunks (batch_number, chunk_number, fingerprint, issued, refused, issued_at,
    expires_in, limited_by) VALUES (:batch, 0, '', 1, 0, now(), 60, 'request')"""
GRANT = "INSERT INTO grants (batch_number, item_number, object_key) VALUES (:batch, 0, 'acme/a')"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE :query"
BUILDING = "CREATE%INDEX CONCURRENTLY%"
KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE :query"


@pytest.fixture
def engine(postgres_database: str) -> Iterator[Engine]:
    """A database with the tables of the previous release, and a batch in them."""
    engine = create_database_engine(postgres_database)
    with engine.connect() as connection:
        command.upgrade(alembic_config(connection), "0005_plain_links")
    with engine.begin() as connection:
        write_grant(connection, write_chunk(connection, "0"))
    yield engine
    engine.dispose()


def url(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def write_chunk(connection: Connection, batch_id: str) -> int:
    batch: int = connection.execute(text(BATCH), {"id": batch_id}).scalar_one()
    connection.execute(text(CHUNK), {"batch": batch})
    return batch


def write_grant(connection: Connection, batch: int) -> None:
    connection.execute(text(GRANT), {"batch": batch})


def wait_for_query(engine: Engine, query: str) -> None:
    def is_running() -> bool:
        with engine.connect() as connection:
            return bool(connection.scalar(text(WAITING), {"query": query}))

    wait_until(is_running)


@contextmanager
def migrating(engine: Engine) -> Iterator[Future[bool]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(migrate_to_head, url(engine))


def test_a_worker_that_has_written_its_chunk_goes_on_with_its_grants(engine: Engine) -> None:
    with engine.connect() as connection:
        command.upgrade(alembic_config(connection), "0006_trees")
    with engine.connect() as worker, migrating(engine) as migration:
        batch = write_chunk(worker, "1")
        wait_for_query(engine, "CREATE TRIGGER unindexed%")  # it waits for this transaction
        worker.execute(text("SET LOCAL lock_timeout = '1s'"))
        write_grant(worker, batch)
        worker.commit()
        assert migration.result()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM grants")) == 2
        assert connection.scalar(text("SELECT count(*) FROM unindexed_chunks")) == 2


@pytest.mark.parametrize("before", ["0006_trees", "0008_key_lookup"])
def test_a_migration_that_was_interrupted_continues(engine: Engine, before: str) -> None:
    with engine.connect() as connection:
        command.upgrade(alembic_config(connection), before)
    with engine.connect() as reader, migrating(engine) as migration:
        reader.execution_options(purpose="snapshot")
        reader.execute(text("SELECT count(*) FROM tenants"))  # building an index waits for its end
        wait_for_query(engine, BUILDING)
        with engine.begin() as connection:
            connection.execute(text(KILL), {"query": BUILDING})
        with pytest.raises(ClickException):
            migration.result()
    assert migrate_to_head(url(engine))
    with engine.connect() as connection:
        invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
        assert connection.scalar(text(invalid)) == 0


def test_a_long_read_ends_the_migration_before_workers_give_up(engine: Engine) -> None:
    with engine.connect() as reader:
        reader.execute(text("SELECT count(*) FROM grants"))
        with pytest.raises(ClickException, match="another transaction has locked"):
            migrate_to_head(url(engine))
    assert migrate_to_head(url(engine))
