from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy import Engine

from worker.base.database_engine import create_database_engine

EndConnection = Callable[[object], object]


@pytest.fixture
def postgres(postgres_database: str) -> Iterator[Engine]:
    """An empty database on PostgreSQL."""
    engine = create_database_engine(postgres_database)
    yield engine
    engine.dispose()


@pytest.fixture
def server(postgres_database: str) -> Iterator[psycopg.Connection]:
    """A connection to that database which can end other ones."""
    url = postgres_database.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def end_connection(server: psycopg.Connection) -> EndConnection:
    """A function that lets the server end the connection with a process id."""
    return lambda pid: server.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
