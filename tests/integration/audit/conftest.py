from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import pytest
from sqlalchemy import Connection, Engine

from tests.support.audit_model.filters import matches
from tests.support.audit_model.logs import GeneratedLog
from worker.audit.audit_rows import GrantRecord, read_grants, record_cursor
from worker.audit.grant_filters import GrantFilter

Item = tuple[str, str, str]


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


def identify(records: Iterable[GrantRecord]) -> list[Item]:
    """Return the tenant, the grant and the decision of records."""
    return [(record.tenant, record.grant, record.decision) for record in records]


def read_pages(connection: Connection, grant_filter: GrantFilter, limit: int) -> list[Item]:
    """Read all pages of a list."""
    page = read_grants(connection, grant_filter, limit)
    items = identify(page.records)
    while page.has_more:
        page = read_grants(connection, grant_filter, limit, record_cursor(page.records[-1]))
        items += identify(page.records)
    return items


def slow_list(log: GeneratedLog, grant_filter: GrantFilter) -> list[Item]:
    """Return what a plain loop over all rows lists, newest first."""
    rows = [row for row in log.rows() if matches(row, grant_filter)]
    ordered = sorted(rows, key=lambda row: (-row.batch_number, -row.item_number))
    return [(row.batch.tenant, row.grant, row.code or "issued") for row in ordered]
