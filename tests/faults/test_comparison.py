"""The comparison itself: it finds every kind of damage, in a copy of genuine rows."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from sqlalchemy import Engine, Table, delete, insert, select, update

from models import Base, Chunk, Grant, Reservation, Usage
from tests.support.builders import messages, services
from tests.support.builders.messages import Clock, grant_message, put_message, tenant_config
from tests.support.crypto.audit_proofs import tamper
from tests.support.faults.comparison import Findings, Record, ToldResult, compare, told_grant
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine
from worker.rules.tenant_config import Quota

KEYS = [f"acme/{n}" for n in range(4)]
CLEAN = Findings()


@pytest.fixture
def engine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    engine = create_database_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def record(engine: Engine) -> Record:
    """What a producer was told of four downloads, an open batch, two PUTs and two refusals."""
    service = services.build_service(engine, S3Clients(), Clock())
    service.apply(tenant_config(Quota("grants", "day", 20)))
    record = Record()
    partly_sent = messages.split_chunks(grant_message([f"acme/open/{n}" for n in range(5)]), 3)
    for message in (
        grant_message([*KEYS, "elsewhere/a"]),
        partly_sent[0],
        put_message({"acme/put/a": 10, "acme/put/b": 20}),
        grant_message([f"acme/many/{n}" for n in range(20)]),  # over the quota
    ):
        keys = [item["key"] for item in message["items"]]
        record.ask(message["batch"], keys)
        note(record, service.issue(message), keys)
    return record


def note(record: Record, outcome: dict[str, Any], keys: list[str]) -> None:
    results = outcome["items"] or [outcome["refusal"]] * len(keys)
    for number, (key, item) in enumerate(zip(keys, results, strict=True)):
        told = ToldResult(key, code=item["code"]) if "code" in item else told_grant(item)
        record.tell_result((outcome["batch"], number), told)


IS_FIRST = (Grant.object_key == KEYS[0],)
COMPLETE_BATCH = select(Chunk.batch_number).where(Chunk.issued == len(KEYS)).scalar_subquery()
GRANTS: Table = Base.metadata.tables["grants"]


def test_genuine_rows_agree(engine: Engine, record: Record) -> None:
    assert {len(results) for results in record.told.values()} == {1}
    assert {result.code for [result] in record.told.values()} == {
        None,
        "key_outside_prefix",
        "quota_exceeded",
    }
    assert compare(record, engine) == CLEAN


def test_an_item_without_a_result_is_lost(engine: Engine, record: Record) -> None:
    item = next(iter(record.told))
    del record.told[item]
    assert kinds(compare(record, engine)) == {"lost": 1}


def test_two_results_of_an_item_are_doubled(engine: Engine, record: Record) -> None:
    item, [told] = next(iter(record.told.items()))
    record.tell_result(item, told)
    assert compare(record, engine) == CLEAN  # the same grant, told again
    record.tell_result(item, told._replace(grant_id="another.0"))
    assert kinds(compare(record, engine)) == {"doubled": 1, "unaudited": 1}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        pytest.param(
            delete(Grant).where(*IS_FIRST), {"unaudited": 1, "mischarged": 6}, id="a deleted row"
        ),
        pytest.param(
            update(Grant).where(*IS_FIRST).values(digest=bytes(32)),
            {"unaudited": 1},
            id="another signature",
        ),
        pytest.param(
            update(Grant).where(*IS_FIRST).values(object_key="acme/other"),
            {"unaudited": 1},
            id="another key",
        ),
        pytest.param(
            update(Grant).where(Grant.code == "key_outside_prefix").values(code="key_empty"),
            {"unaudited": 1},
            id="a refusal with another code",
        ),
        pytest.param(delete(Usage), {"mischarged": 5}, id="missing charges"),
        pytest.param(
            delete(Reservation).where(Reservation.batch_number == COMPLETE_BATCH),
            {"mischarged": 1},
            id="a released reservation",
        ),
    ],
)
def test_a_change_of_the_database_is_found(
    engine: Engine,
    record: Record,
    statement: Any,
    expected: dict[str, int],
) -> None:
    tamper(engine, statement)
    assert kinds(compare(record, engine)) == expected


def test_a_second_row_of_a_key_is_doubled_and_not_charged(engine: Engine, record: Record) -> None:
    columns = [column for column in GRANTS.columns if column.name != "item_number"]
    row = select(*columns, (GRANTS.c.item_number + 100)).where(GRANTS.c.object_key == KEYS[0])
    names = [*(column.name for column in columns), "item_number"]
    tamper(engine, insert(GRANTS).from_select(names, row))
    assert kinds(compare(record, engine)) == {"doubled": 1, "mischarged": 6}


def test_a_charge_that_was_made_twice_is_found_in_each_window(
    engine: Engine, record: Record
) -> None:
    columns = (Usage.grants, Usage.download_grants, Usage.upload_bytes)
    for window, column in product(("minute", "hour", "day", "month", "live"), columns):
        is_charged = (Usage.window == window, column > 0)
        tamper(engine, update(Usage).where(*is_charged).values({column: column * 2}))
        assert kinds(compare(record, engine)) == {"mischarged": 1}
        tamper(engine, update(Usage).where(*is_charged).values({column: column // 2}))
    assert compare(record, engine) == CLEAN


def kinds(findings: Findings) -> dict[str, int]:
    """Return the number of findings of each kind that there is."""
    return {kind: len(lines) for kind, lines in vars(findings).items() if lines}
