"""How often a message makes the database work: on a network, that is how long it takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tests.integration.conftest import Declare
from tests.support.builders.messages import grant_message, split_chunks, tenant_config
from tests.support.builders.services import InProcessService
from worker.core.tenants.config import Quota


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    """Every statement that is run meanwhile, but what opens and ends transactions."""
    seen: list[str] = []

    def see(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            seen.append(statement.partition("(")[0])

    event.listen(engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine, "before_cursor_execute", see)


@pytest.fixture(autouse=True)
def warm(declare: Declare, issuer: InProcessService) -> None:
    declare(tenant_config(Quota("grants", "hour", 100), Quota("grants", "live", 100)))
    issuer.issue(grant_message())


def test_a_grant_is_one_statement_to_look_and_six_to_write(
    engine: Engine, issuer: InProcessService
) -> None:
    with counted(engine) as seen:
        issuer.issue(grant_message())
    locks = engine.dialect.name == "postgresql"  # SQLite's writers exclude each other
    assert len(seen) == 1 + 6 + locks, seen


def test_a_later_chunk_is_one_statement_to_look_and_six_to_write(
    engine: Engine, issuer: InProcessService
) -> None:
    first, second, _ = split_chunks(grant_message([f"acme/{n}" for n in range(6)]), 2)
    issuer.issue(first)
    with counted(engine) as seen:
        issuer.issue(second)
    copies = engine.dialect.name == "postgresql"  # which SQLAlchemy does not see
    assert len(seen) == 1 + 6 - copies, seen
