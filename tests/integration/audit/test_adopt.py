"""Rows that the previous release wrote have no leaves, until they are adopted."""

from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select

from models import ConfigChange, Leaf
from tests.support.audit_log.logs import GeneratedLog, generate_log
from tests.support.audit_log.rebuilding import store_head
from tests.support.audit_log.stored_tables import StoredTables
from tests.support.audit_log.trials import problems_of
from worker.commands.audit.group import audit
from worker.db.audit.changes import ChangeAuthor
from worker.db.engine import create_database_engine, read_transaction
from worker.usecases.audit import adopt
from worker.usecases.audit.verification.verify import VerifyOptions, verify_log

BEFORE = "2026-12-01"
AFTER_THAT = datetime(2026, 12, 2, tzinfo=UTC)

LATER_KINDS = {"use", "settlement", "revocation"}
"""The kinds of rows that came after leaves, so that each of them has one."""

Run = Callable[..., Result]


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    monkeypatch.setattr("worker.clock.now", lambda: AFTER_THAT)
    return lambda *words: CliRunner().invoke(audit, list(words))


@pytest.fixture
def log(database_url: str) -> GeneratedLog:
    """A log of which an older release wrote every second row: it has no leaf."""
    log = generate_log(database_url, seed=1)
    with closing(StoredTables(database_url)) as db:
        db.execute("DELETE FROM checkpoints")
        for tenant in [row["tenant"] for row in db.rows("tree_heads")]:
            remove_every_second_leaf(db, tenant)
    return log


def remove_every_second_leaf(db: StoredTables, tenant: str) -> None:
    leaves = db.rows("leaves", "tenant = ?", tenant)
    kept = [leaf for n, leaf in enumerate(leaves) if n % 2 or leaf["kind"] in LATER_KINDS]
    for leaf in leaves:
        db.delete("leaves", leaf)
    for number, leaf in enumerate(kept):
        db.insert("leaves", leaf | {"leaf_number": number})
    store_head(db, tenant, len(kept))


def leaves(url: str) -> list[tuple[Any, ...]]:
    engine = create_database_engine(url)
    try:
        with read_transaction(engine) as connection:
            query = select(Leaf.tenant, Leaf.leaf_number, Leaf.hash)
            return sorted(tuple(row) for row in connection.execute(query))
    finally:
        engine.dispose()


def test_rows_without_a_leaf_are_a_finding_that_names_adopt(run: Run, log: GeneratedLog) -> None:
    result = run("verify", "--processes", "1")
    assert result.exit_code == 1
    assert "chunks: rows that no leaf covers: " in result.stdout
    assert "audit adopt --before" in result.stdout
    verification = verify_log(log.url, VerifyOptions(max_problems=100))
    assert verification.problems == []
    tables = {"chunks", "reissues", "cancellations", "config_changes"}
    assert tables <= verification.uncovered.keys()


def test_adopted_rows_verify_and_the_leaves_before_them_stay(run: Run, log: GeneratedLog) -> None:
    before = leaves(log.url)
    adopted = run("adopt", "--before", BEFORE)
    assert (adopted.exit_code, "Leaves added for" in adopted.stdout) == (0, True), adopted.output
    assert set(before) < set(leaves(log.url))
    assert not list(problems_of(verify_log(log.url, VerifyOptions())))


def test_adopting_again_adds_nothing(run: Run, log: GeneratedLog) -> None:
    run("adopt", "--before", BEFORE)
    adopted = leaves(log.url)
    again = run("adopt", "--before", BEFORE)
    assert again.stdout == "All rows before this moment have a leaf: nothing was added.\n"
    assert leaves(log.url) == adopted


def test_an_interrupted_adoption_continues(
    run: Run, log: GeneratedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopt, "_MAX_LEAVES", 3)

    def interrupt(_done: object) -> None:
        raise KeyboardInterrupt

    engine = create_database_engine(log.url)
    author = ChangeAuthor(AFTER_THAT, "alice", "audit adopt")
    with suppress(KeyboardInterrupt):
        adopt.adopt_rows(engine, author.changed_at, author, interrupt)
    engine.dispose()
    assert list(problems_of(verify_log(log.url, VerifyOptions())))
    assert run("adopt", "--before", BEFORE).exit_code == 0
    assert not list(problems_of(verify_log(log.url, VerifyOptions())))


def test_only_rows_before_the_moment_are_adopted(run: Run, log: GeneratedLog) -> None:
    before = leaves(log.url)
    run("adopt", "--before", "2026-11-24T12:00")
    assert leaves(log.url) == before


def test_who_adopted_is_recorded(run: Run, log: GeneratedLog) -> None:
    run("adopt", "--before", BEFORE)
    engine = create_database_engine(log.url)
    with read_transaction(engine) as connection:
        query = select(ConfigChange.command, ConfigChange.after).where(
            ConfigChange.path == "audit.adopted"
        )
        assert [tuple(row) for row in connection.execute(query)] == [
            ("audit adopt", {"before": "2026-12-01T00:00:00+00:00"})
        ]
    engine.dispose()


def test_rows_of_a_later_release_are_not_adopted(run: Run, log: GeneratedLog) -> None:
    with closing(StoredTables(log.url)) as tables:
        tables.execute("UPDATE alembic_version SET version_num = '9999_later'")
    before = leaves(log.url)
    result = run("adopt", "--before", BEFORE)
    assert (result.exit_code, leaves(log.url)) == (1, before)
    assert "those of a later release" in result.stderr


@pytest.mark.usefixtures("log")
def test_a_moment_in_the_future_is_refused(run: Run) -> None:
    result = run("adopt", "--before", "2999-01-01")
    assert (result.exit_code, "it is in the future" in result.stderr) == (2, True)
