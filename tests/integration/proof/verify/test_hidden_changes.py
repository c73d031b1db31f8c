"""`audit verify` names a change, whatever else was changed to hide it."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from tests.support.audit_log.logs import GeneratedLog, generate_log
from tests.support.audit_log.stored_tables import StoredTables
from tests.support.audit_log.trials import copied_file
from tests.support.servers.databases import migrated_file
from worker.proof.verify.stored_rows import Problem
from worker.proof.verify.verification import VerifyOptions, verify_log


@pytest.fixture
def url(log: GeneratedLog) -> Iterator[str]:
    with copied_file(log) as copy:
        yield copy


@pytest.fixture(scope="module")
def pruned_log(tmp_path_factory: pytest.TempPathFactory) -> GeneratedLog:
    return generate_log(
        migrated_file(tmp_path_factory.mktemp("pruned") / "log.db"), 2, is_pruned=True
    )


def execute(url: str, *statements: str) -> None:
    with closing(StoredTables(url)) as tables:
        for statement in statements:
            tables.execute(statement)


def problems(url: str, options: VerifyOptions) -> list[Problem]:
    return verify_log(url, replace(options, max_problems=100)).problems


def test_a_stray_item_hides_no_change_of_another_one(url: str, options: VerifyOptions) -> None:
    execute(
        url,
        "INSERT INTO grants (batch_number, item_number, object_key) VALUES (1, -5, 'x')",
        "UPDATE grants SET object_key = 'x' WHERE batch_number = 20 AND item_number = 0",
    )
    batch = _batch_id(url, 20)
    found = problems(url, options)
    assert [each.table for each in found] == ["grants", "chunks"]
    assert (found[1].batch, found[1].chunk) == (batch, 0)


def test_the_items_of_a_removed_batch_accuse_no_other_batch(
    url: str, options: VerifyOptions
) -> None:
    batch = _batch_id(url, 3)
    execute(url, "DELETE FROM batches WHERE batch_number = 3")
    found = problems(url, options)
    assert found
    assert {each.batch for each in found} <= {None, batch}


def test_a_size_that_no_batch_has_takes_no_memory(url: str, options: VerifyOptions) -> None:
    size = 2**62
    execute(url, f"UPDATE batches SET chunk_size = {size}, total = {size} WHERE batch_number = 5")  # noqa: S608 - a number
    batch = _batch_id(url, 5)
    assert batch in {each.batch for each in problems(url, options)}


def test_a_byte_that_moved_from_one_leaf_to_the_next_is_found(
    url: str, options: VerifyOptions
) -> None:
    with closing(StoredTables(url)) as tables:
        first, second = next(
            pair
            for pair in zip(tables.rows("leaves"), tables.rows("leaves")[1:], strict=False)
            if pair[0]["tenant"] == pair[1]["tenant"] and pair[0]["leaf_number"] % 2 == 0
        )
        tables.update("leaves", first, hash=first["hash"] + second["hash"][:1])
        tables.update("leaves", second, hash=second["hash"][1:])
    found = problems(url, options)
    assert any(each.table == "leaves" and each.number == first["leaf_number"] for each in found)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("chunks SET issued_at = 'never'", id="a time"),
        pytest.param("chunks SET chunk_number = 'x' WHERE batch_number = 2", id="a number"),
        pytest.param("leaves SET leaf_number = 'x' WHERE kind = 'use'", id="the number of a leaf"),
        pytest.param("uses SET group_id = 7", id="a group"),
    ],
)
def test_a_value_of_another_type_is_a_problem_and_no_failure(
    pruned_log: GeneratedLog, change: str
) -> None:
    with copied_file(pruned_log) as copy:
        execute(copy, f"UPDATE OR IGNORE {change}")
        assert problems(copy, VerifyOptions())


@pytest.mark.parametrize("table", ["annotations", "batches"])
def test_the_beginning_of_a_text_is_not_hidden_in_its_salt(
    url: str, options: VerifyOptions, table: str
) -> None:
    moved = "reason = substr(reason, 2), reason_salt = reason_salt || substr(reason, 1, 1)"
    execute(url, f"UPDATE {table} SET {moved} WHERE length(reason) > 1")  # noqa: S608
    assert problems(url, options)


def test_a_row_of_texts_without_a_text_is_found(url: str, options: VerifyOptions) -> None:
    keys = "SELECT batch_number, item_number FROM grants"
    new = f"{keys} EXCEPT SELECT batch_number, item_number FROM annotations LIMIT 1"  # noqa: S608
    execute(url, f"INSERT INTO annotations (batch_number, item_number) {new}")
    (found,) = problems(url, options)
    assert (found.table, found.text) == ("annotations", "has no text")


def test_a_json_null_in_place_of_null_is_found(url: str, options: VerifyOptions) -> None:
    execute(url, "UPDATE grants SET detail = 'null' WHERE detail IS NULL")
    assert problems(url, options)


def _batch_id(url: str, number: int) -> str:
    with closing(StoredTables(url)) as tables:
        (row,) = tables.rows("batches", "batch_number = ?", number)
    batch_id: str = row["batch_id"]
    return batch_id
