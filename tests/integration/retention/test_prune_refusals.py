"""`audit prune` removes nothing that is still needed, and says what needs it."""

from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select, text, update

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
from tests.support.audit_log.stored_tables import StoredTables
from tests.support.builders.messages import Clock
from worker.db.engine import read_transaction, write_transaction
from worker.db.retention.months import add_months, format_month, month_of
from worker.db.retention.partitions import read_partitions


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
    with closing(StoredTables(engine.url.render_as_string(hide_password=False))) as tables:
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


def _delivery(number: int, now: datetime) -> Any:
    return insert(Delivery).values(
        batch_number=number,
        chunk_number=0,
        tenant="acme",
        endpoint="hook",
        state="pending",
        attempts=0,
        next_attempt_at=now,
        created_at=now,
    )


def _manifest(number: int, now: datetime) -> Any:
    return insert(Manifest).values(
        batch_number=number,
        tenant="acme",
        object_key="m",
        state="pending",
        attempts=0,
        next_attempt_at=now,
        issued=0,
        refused=0,
        created_at=now,
    )


def _upload(number: int, now: datetime) -> Any:
    return insert(MultipartUpload).values(
        batch_number=number,
        item_number=0,
        tenant="acme",
        bucket="demo",
        object_key="k",
        upload_id="u",
        size=1,
        part_size=1,
        expires_at=now,
        state="open",
    )


def _reservation(_number: int, now: datetime) -> Any:
    return update(Reservation).values(expires_at=now + timedelta(seconds=1))


WORK = {
    "pending webhooks": _delivery,
    "pending manifests": _manifest,
    "open multipart uploads": _upload,
    "grants that are still valid": _reservation,
}


@pytest.mark.parametrize("what", WORK)
def test_what_unfinished_work_needs_stays_and_the_work_is_named(
    engine: Engine, run: RunPrune, old: dict[str, Any], clock: Clock, what: str
) -> None:
    with write_transaction(engine) as connection:
        number = connection.scalar(select(Batch.batch_number).where(Batch.batch_id == old["batch"]))
        connection.execute(WORK[what](number or 0, clock()))
    result = run("--yes", "--without-checkpoint")
    assert (result.exit_code, keys(engine)) == (1, ALL)
    assert what in result.output
    assert old["batch"] in result.output


@pytest.fixture
def postgres(engine: Engine) -> Engine:
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no partitions")
    return engine


def test_partitions_are_dropped(postgres: Engine, run: RunPrune) -> None:
    run("--yes")
    with read_transaction(postgres) as connection:
        assert read_partitions(connection)[0].first == KEPT


def test_the_first_partition_is_dropped_only_as_a_whole(postgres: Engine, run: RunPrune) -> None:
    result = run("--yes", before=NOW)
    assert (result.exit_code, keys(postgres)) == (1, ALL)
    assert f"--before {format_month(OLD)} is the earliest month" in result.output


def test_a_long_read_stops_the_prune_with_a_message(postgres: Engine, run: RunPrune) -> None:
    with read_transaction(postgres) as reader:
        reader.execute(text("SELECT 1 FROM grants"))
        result = run("--yes")
    assert (result.exit_code, count(postgres, Prune)) == (1, 0)
    assert "holds the grants" in result.output


def test_grants_in_the_default_partition_are_moved_first(postgres: Engine, run: RunPrune) -> None:
    month = add_months(KEPT, -30)
    with write_transaction(postgres) as connection:
        connection.exec_driver_sql("ALTER TABLE grants DETACH PARTITION grants_first")
        connection.exec_driver_sql(
            "INSERT INTO grants (batch_number, item_number, object_key, month)"
            " VALUES (1, 9, 'k', %s)",
            (month,),
        )
    result = run("--yes")
    assert (result.exit_code, "default partition" in result.output) == (1, True)
