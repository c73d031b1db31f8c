from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import pytest
from sqlalchemy import Connection, Engine

from tests.support.audit_model.logs import GeneratedLog


class WithLog(Protocol):
    def __call__(self, log: GeneratedLog) -> AbstractContextManager[Connection]: ...


@pytest.fixture
def with_log(engine: Engine) -> WithLog:
    """A context manager with a connection that sees a log; nothing of it is committed."""

    @contextmanager
    def write(log: GeneratedLog) -> Iterator[Connection]:
        with engine.connect() as connection, connection.begin() as transaction:
            log.write(connection)
            yield connection
            transaction.rollback()

    return write


@pytest.fixture
def examples(engine: Engine) -> int:
    """The number of generated logs: fewer on PostgreSQL, where each one takes longer."""
    return 120 if engine.dialect.name == "sqlite" else 25
