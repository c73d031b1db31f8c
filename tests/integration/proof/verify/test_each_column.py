"""`audit verify` finds a change of any value of the log, table by table and column by column."""

import random
from collections.abc import Iterator, Mapping
from contextlib import closing

import pytest

from models import Base
from tests.support.audit_log.changed_values import flipped
from tests.support.audit_log.logs import GeneratedLog, generate_log
from tests.support.audit_log.places import NotPossible
from tests.support.audit_log.rebuilding import store_head
from tests.support.audit_log.stored_tables import KEYS, DatabaseRefuses, StoredTables
from tests.support.audit_log.trials import copied_file
from tests.support.servers.databases import migrated_file
from worker.proof.verify.verification import VerifyOptions, verify_log

NOT_COVERED: Mapping[tuple[str, str], str] = {
    ("checkpoints", "signed_at"): "the note has no time",
    ("batches", "request_salt"): "it only decides whether a request that is repeated is the same",
}
COLUMNS = [
    (table, column.name)
    for table in KEYS
    for column in Base.metadata.tables[table].columns
    if (table, column.name) not in NOT_COVERED
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> GeneratedLog:
    path = tmp_path_factory.mktemp("log") / "log.db"
    return generate_log(migrated_file(path), seed=1, is_pruned=True)


@pytest.fixture
def url(log: GeneratedLog) -> Iterator[str]:
    with copied_file(log) as copy:
        yield copy


def change(url: str, table: str, column: str, where: str = "1 = 1") -> None:
    """Change the column in one row, if possible one that has a value."""
    rng = random.Random(f"{table}.{column}")
    with closing(StoredTables(url)) as tables:
        for row in sorted(tables.rows(table, where), key=lambda row: row[column] is None):
            try:
                tables.update(table, row, **{column: flipped(rng, column, row[column])})
            except (NotPossible, *DatabaseRefuses):
                continue
            return
    raise AssertionError(f"no row of {table} can have another {column}")


def test_the_unchanged_log_verifies(url: str, options: VerifyOptions) -> None:
    assert not verify_log(url, options).problems


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_change_of_any_column_of_the_log_is_found(
    url: str, options: VerifyOptions, table: str, column: str
) -> None:
    change(url, table, column)
    assert verify_log(url, options).problems


KINDS = (
    *("batch", "chunk", "reissue", "cancellation", "config", "prune", "use", "settlement"),
    *("revocation", "erasure", "fork"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", Base.metadata.tables["leaves"].columns.keys())
def test_a_change_of_any_column_of_a_leaf_of_any_kind_is_found(
    url: str, options: VerifyOptions, kind: str, column: str
) -> None:
    change(url, "leaves", column, f"kind = '{kind}'")
    assert verify_log(url, options).problems


@pytest.mark.parametrize("kind", KINDS)
def test_another_hash_of_a_leaf_is_found_in_a_tree_that_was_mended(url: str, kind: str) -> None:
    """Only the comparison with the rows can find it: no checkpoint, and a head that agrees."""
    change(url, "leaves", "hash", f"kind = '{kind}'")
    with closing(StoredTables(url)) as tables:
        tables.execute("DELETE FROM checkpoints")
        for head in tables.rows("tree_heads"):
            store_head(tables, head["tenant"], head["size"])
    assert verify_log(url, VerifyOptions()).problems


@pytest.mark.parametrize(
    ("table", "column"), [each for each in COLUMNS if each[0] not in {"checkpoints", "tree_heads"}]
)
def test_a_change_of_any_column_is_found_by_somebody_without_checkpoints(
    url: str, table: str, column: str
) -> None:
    change(url, table, column)
    with closing(StoredTables(url)) as tables:
        tables.execute("DELETE FROM checkpoints")
    assert verify_log(url, VerifyOptions()).problems
