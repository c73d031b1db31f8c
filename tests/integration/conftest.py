import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from tests.support.builders import messages, services
from tests.support.builders.services import InProcessService
from tests.support.cli.operator import Operator
from tests.support.servers.databases import fresh_database
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine, read_transaction, write_transaction
from worker.ledger import tenant_rows
from worker.rules.tenant_config import TenantConfig

ApplyConfig = Callable[[TenantConfig], None]
ReplaceTenants = Callable[[], None]
Copies = Callable[[int], list[str]]


@pytest.fixture
def broker(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty broker; clients re-send unanswered messages to it after 0.1 seconds."""
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 0.1)
    return valkey_url


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a migrated database, which commands use."""
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    return database_url


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """A migrated database, on SQLite and on PostgreSQL, which commands use."""
    engine = create_database_engine(database)
    yield engine
    engine.dispose()


@pytest.fixture
def copies(engine: Engine, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Copies]:
    """A function that returns the URLs of a number of copies of the database."""
    with ExitStack() as stack:

        def copy(count: int) -> list[str]:
            engine.dispose()  # PostgreSQL copies only what nobody uses
            if engine.dialect.name == "sqlite":
                database = str(engine.url.database)
                files = (shutil.copy(database, tmp_path / f"{n}.db") for n in range(count))
                return [f"sqlite:///{file}" for file in files]
            server, template = request.getfixturevalue("postgres_url"), engine.url.database
            return [
                stack.enter_context(fresh_database(server, str(template))) for _ in range(count)
            ]

        yield copy


@pytest.fixture
def apply_config(engine: Engine, clock: messages.Clock) -> ApplyConfig:
    """A function that replaces the tenant config."""

    def apply(config: TenantConfig) -> None:
        with write_transaction(engine) as connection:
            services.replace_config(connection, config, clock())

    return apply


@pytest.fixture
def replace_tenants(engine: Engine, apply_config: ApplyConfig) -> ReplaceTenants:
    """A function that removes all tenants, and creates them again with the same config."""

    def replace() -> None:
        with read_transaction(engine) as connection:
            config = tenant_rows.load_config(connection)
        apply_config(TenantConfig(config.buckets))
        apply_config(config)

    return replace


@pytest.fixture
def clock() -> messages.Clock:
    """A clock that stands still until it is moved, at a time far from midnight."""
    return messages.Clock()


@pytest.fixture
def service(
    engine: Engine, clock: messages.Clock, monkeypatch: pytest.MonkeyPatch
) -> InProcessService:
    """The service in this process, with an access key that signs; no config is applied yet."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    return services.build_service(engine, S3Clients(), clock)


@pytest.fixture
def at_clock(
    engine: Engine,  # noqa: ARG001 - configures the commands
    clock: messages.Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> messages.Clock:
    """The clock of the service, which commands use with its database."""
    monkeypatch.setattr("worker.clock.now", clock)
    return clock


@pytest.fixture
def operator(engine: Engine, tmp_path: Path) -> Operator:
    """Applies files to the database."""
    return Operator(engine, tmp_path / "tenants.toml")
