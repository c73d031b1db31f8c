"""`audit prune` removes nothing that is still needed, and says what needs it."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select, text, update

from models import (
    Batch,
    Delivery,
    Manifest,
    MultipartUpload,
    Prune,
    Reservation,
)
from tests.support.audit_log.pruned_log import (
    ALL,
    KEPT,
    NOW,
    OLD,
    RunPrune,
    count,
    forget_checkpoints,
    keys,
)
from tests.support.audit_log.trials import stored_tables
from tests.support.builders.any_row import insert_any
from tests.support.builders.messages import Clock
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.month_partitions import add_months, month_of, read_partitions
from worker.shared.months import format_month

ON_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.mark.parametrize("month", ["2026-13", "2026-1", "26-01", "yesterday", "", "2026-01-01"])
def test_what_is_no_month_is_refused(run: RunPrune, month: str) -> None:
    result = run("--yes", before=month)
    assert (result.exit_code, "a month such as 2026-01" in result.output) == (2, True)


@pytest.mark.parametrize("ahead", [0, 1, 24])
def test_neither_this_month_nor_a_later_one_is_removed(
    engine: Engine, run: RunPrune, clock: Clock, ahead: int
) -> None:
    result = run("--yes", before=add_months(month_of(clock()), ahead))
    assert (result.exit_code, keys(engine)) == (2, ALL)


def test_what_no_checkpoint_covers_stays(engine: Engine, run: RunPrune) -> None:
    forget_checkpoints(engine)
    result = run("--yes")
    assert (result.exit_code, keys(engine)) == (1, ALL)
    assert "No signed checkpoint covers all of this of acme" in result.output
    assert run("--yes", "--without-checkpoint").exit_code == 0
    assert keys(engine) == ["acme/kept"]


def test_a_chunk_without_all_of_its_items_stays(engine: Engine, run: RunPrune) -> None:
    with stored_tables(engine) as tables:
        tables.execute("DELETE FROM grants WHERE object_key = 'elsewhere'")
    result = run("--yes")
    assert (result.exit_code, count(engine, Prune)) == (1, 0)
    assert "are not 3, as it counts" in result.output
    assert keys(engine) == ["acme/a", "acme/c", "acme/kept"]


def test_tables_of_a_later_release_are_not_pruned(engine: Engine, run: RunPrune) -> None:
    with write_transaction(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999_later'"))
    result = run("--yes")
    assert (result.exit_code, keys(engine)) == (1, ALL)
    assert "those of a later release" in result.output


NEEDED: dict[str, Callable[[int, datetime], Any]] = {
    "pending webhooks": lambda number, _: insert_any(
        Delivery, batch_number=number, chunk_number=0, state="pending"
    ),
    "pending manifests": lambda number, _: insert_any(
        Manifest, batch_number=number, state="pending"
    ),
    "open multipart uploads": lambda number, _: insert_any(
        MultipartUpload, batch_number=number, item_number=0, state="open"
    ),
    "grants that are still valid": lambda _, now: update(Reservation).values(
        expires_at=now + timedelta(seconds=1)
    ),
}
"""Statements after which the batch with a number is still needed."""


@pytest.mark.parametrize("what", NEEDED)
def test_what_unfinished_work_needs_stays_and_the_work_is_named(
    engine: Engine, run: RunPrune, old: dict[str, Any], clock: Clock, what: str
) -> None:
    with write_transaction(engine) as connection:
        number = connection.scalar(select(Batch.batch_number).where(Batch.batch_id == old["batch"]))
        connection.execute(NEEDED[what](number or 0, clock()))
    result = run("--yes", "--without-checkpoint")
    assert (result.exit_code, keys(engine)) == (1, ALL)
    assert what in result.output
    assert old["batch"] in result.output


@ON_POSTGRESQL
def test_partitions_are_dropped(engine: Engine, run: RunPrune) -> None:
    run("--yes")
    with read_transaction(engine) as connection:
        assert read_partitions(connection)[0].first == KEPT


@ON_POSTGRESQL
def test_the_first_partition_is_dropped_only_as_a_whole(engine: Engine, run: RunPrune) -> None:
    result = run("--yes", before=NOW)
    assert (result.exit_code, keys(engine)) == (1, ALL)
    assert f"--before {format_month(OLD)} is the earliest month" in result.output


@ON_POSTGRESQL
def test_a_long_read_stops_the_prune_with_a_message(engine: Engine, run: RunPrune) -> None:
    with read_transaction(engine) as reader:
        reader.execute(text("SELECT 1 FROM grants"))
        result = run("--yes")
    assert (result.exit_code, count(engine, Prune)) == (1, 0)
    assert "holds the grants" in result.output


@ON_POSTGRESQL
def test_grants_in_the_default_partition_are_moved_first(engine: Engine, run: RunPrune) -> None:
    month = add_months(KEPT, -30)
    with write_transaction(engine) as connection:
        connection.exec_driver_sql("ALTER TABLE grants DETACH PARTITION grants_first")
        connection.exec_driver_sql(
            "INSERT INTO grants (batch_number, item_number, object_key, month)"
            " VALUES (1, 9, 'k', %s)",
            (month,),
        )
    result = run("--yes")
    assert (result.exit_code, "default partition" in result.output) == (1, True)
