from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support.builders.messages import Clock
from tests.support.cli.operator import Operator


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a migrated database, which commands use."""
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    return database_url


@pytest.fixture
def engine(engine: Engine, database: str) -> Engine:  # noqa: ARG001 - configures the commands
    """The engine of the database that commands use."""
    return engine


@pytest.fixture
def at_clock(engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:  # noqa: ARG001
    """The clock of the service, which commands use with its database."""
    monkeypatch.setattr("worker.clock.now", clock)
    return clock


@pytest.fixture
def operator(engine: Engine, tmp_path: Path) -> Operator:
    """Applies files to the database."""
    return Operator(engine, tmp_path / "tenants.toml")
