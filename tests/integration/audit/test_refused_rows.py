"""Refused items are found by indexes of refused items, and are those of a plain loop over all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, text

from tests.integration.audit.conftest import WithLog, read_pages, slow_list
from tests.support.audit_model.filters import filters
from tests.support.audit_model.logs import CODES, GeneratedLog, generated_logs, no_shrinking
from tests.support.builders.audit_rows import MORNING, AuditedBatch
from worker.audit import index_scans
from worker.audit.audit_rows import read_grants
from worker.audit.grant_filters import GrantFilter
from worker.base.database_engine import read_transaction, write_transaction

pytestmark = pytest.mark.slow

REFUSALS = st.sampled_from([("refused",), (CODES[0],), (CODES[1], CODES[0]), ("refused", CODES[0])])
RARE, FREQUENT = CODES
TABLES = ("grants", "batches", "chunks", "refused_chunks")


def test_pages_of_refused_items_are_those_of_a_plain_loop(
    with_log: WithLog, examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    @settings(no_shrinking, max_examples=examples)
    @given(
        generated_logs().map(GeneratedLog.in_order),
        filters(),
        REFUSALS,
        st.integers(1, 9),
        st.integers(1, 3),
        st.integers(1, 4),
    )
    def check(
        log: GeneratedLog,
        conditions: GrantFilter,
        decisions: tuple[str, ...],
        limit: int,
        size: int,
        rows_per_range: int,
    ) -> None:
        monkeypatch.setattr(index_scans, "_RANGES_PER_READ", size)
        monkeypatch.setattr(index_scans, "_MAX_READ", 3)
        monkeypatch.setattr(index_scans, "_ROWS_PER_RANGE", rows_per_range)
        grant_filter = replace(conditions, decisions=decisions)
        with with_log(log) as connection:
            assert read_pages(connection, grant_filter, limit) == slow_list(log, grant_filter)

    check()


@pytest.fixture
def log(engine: Engine) -> Engine:
    """A tenant with 2,000 refused items, of which the oldest has a rare code, and two others.

    Of those, one has a single refused item, which is the oldest, and one has none.
    """
    keys = [f"acme/{number}" for number in range(2_000)]
    codes = dict.fromkeys(range(2_000), FREQUENT)
    with write_transaction(engine) as connection:
        AuditedBatch(1, ["globex/1"], {0: FREQUENT}, tenant="globex").write(connection)
        AuditedBatch(2, ["initech/1"], tenant="initech").write(connection)
        AuditedBatch(3, keys, codes | {0: RARE}, MORNING + timedelta(hours=1)).write(connection)
    return engine


@contextmanager
def statements(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    executed: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        executed.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", record)
    yield executed
    event.remove(engine, "before_cursor_execute", record)


@pytest.mark.parametrize(
    ("grant_filter", "found"),
    [
        (GrantFilter(tenant="globex", decisions=("refused",)), 1),
        (GrantFilter(tenant="globex", decisions=(FREQUENT,)), 1),
        (GrantFilter(tenant="globex", decisions=(RARE,)), 0),
        (GrantFilter(tenant="initech", decisions=("refused",)), 0),
        (GrantFilter(tenant="acme", decisions=(RARE,)), 1),
        (GrantFilter(tenant="acme", decisions=("refused",)), 50),
        (GrantFilter(decisions=(RARE,)), 1),
        (GrantFilter(decisions=("refused",)), 50),
    ],
    ids=str,
)
def test_a_page_takes_few_statements_that_search_indexes(
    log: Engine, grant_filter: GrantFilter, found: int
) -> None:
    """Whatever others have that were refused, and however many a tenant has of other codes."""
    with statements(log) as executed, read_transaction(log) as connection:
        assert len(read_grants(connection, grant_filter, 50).records) == found
    selects = [(sql, values) for sql, values in executed if sql.startswith(("SELECT", "WITH"))]
    assert len(selects) <= 10
    with read_transaction(log) as connection:
        scanned = {table for sql, values in selects for table in scans(connection, sql, values)}
    assert scanned == set()


def scans(connection: Connection, sql: str, values: Any) -> Iterator[str]:
    """Yield the tables of the log that a statement reads without an index."""
    if connection.dialect.name == "sqlite":
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
        steps = [row[-1].split() for row in plan]
        yield from (words[1] for words in steps if words[0] == "SCAN" and words[1] in TABLES)
        return
    connection.execute(text("SET LOCAL enable_seqscan = off"))  # else small tables are scanned
    lines = connection.exec_driver_sql(f"EXPLAIN {sql}", values).scalars()
    yield from (
        line
        for line in lines
        if "Seq Scan on " in line and line.split("Seq Scan on ")[1].startswith(TABLES)
    )
