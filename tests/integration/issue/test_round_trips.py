"""Counts the SQL statements for a message: over a network, they determine its duration."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import grant_message, split_chunks, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.fakes.statements import before_statements
from worker.rules.tenant_config import Quota


@contextmanager
def recorded_statements(engine: Engine) -> Iterator[list[str]]:
    """Record the statements that are run, except those that begin and end transactions."""
    statements: list[str] = []

    def record(statement: str) -> None:
        if not statement.startswith("BEGIN"):
            statements.append(statement.partition("(")[0])

    with before_statements(engine, record):
        yield statements


@pytest.fixture(autouse=True)
def warm_up(apply_config: ApplyConfig, service: InProcessService) -> None:
    apply_config(tenant_config(Quota("grants", "hour", 100), Quota("grants", "live", 100)))
    service.issue(grant_message())


def test_a_grant_takes_one_statement_to_read_and_nine_to_write(
    engine: Engine, service: InProcessService
) -> None:
    with recorded_statements(engine) as statements:
        service.issue(grant_message())
    # PostgreSQL locks the batch, and appends the leaf in one statement less than SQLite.
    assert len(statements) == 1 + 9, statements


def test_a_later_chunk_takes_one_statement_to_read_and_nine_to_write(
    engine: Engine, service: InProcessService
) -> None:
    first, second, _ = split_chunks(grant_message([f"acme/{n}" for n in range(6)]), 2)
    service.issue(first)
    with recorded_statements(engine) as statements:
        service.issue(second)
    # PostgreSQL appends the leaf in one statement less, and COPY, which SQLAlchemy does not see.
    is_postgres = engine.dialect.name == "postgresql"
    assert len(statements) == 1 + 9 - 2 * is_postgres, statements
