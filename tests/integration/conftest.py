from collections.abc import Callable, Iterator

import pytest
import redis
from sqlalchemy import Engine

from tests import issuing, requests
from tests.issuing import Answering
from worker.adapters import declarations
from worker.adapters.database import connect, writing
from worker.adapters.s3 import S3
from worker.commands.migrate import migrate_to_head
from worker.core.tenancy import Declared

Declare = Callable[[Declared], None]


@pytest.fixture
def broker(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty broker, whose clients lose patience with silence soon."""
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    monkeypatch.setattr("valetkey.sender.FIRST_GAP", 0.1)
    return valkey_url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A migrated database, on SQLite and on PostgreSQL."""
    migrate_to_head(database_url)
    engine = connect(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def declare(engine: Engine) -> Declare:
    """Apply what is declared."""

    def apply(declared: Declared) -> None:
        with writing(engine) as connection:
            declarations.store(connection, declarations.load(connection), declared)

    return apply


@pytest.fixture
def clock() -> requests.Clock:
    """A clock that stands until it is moved, at a moment far from midnight."""
    return requests.Clock()


@pytest.fixture
def issuer(engine: Engine, clock: requests.Clock, monkeypatch: pytest.MonkeyPatch) -> Answering:
    """An issuer that signs with a key made up for it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    return issuing.issuer(engine, S3(), clock)
