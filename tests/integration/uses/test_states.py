from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Batch, Grant
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import (
    Clock,
    grant_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from tests.support.uses import settlements
from tests.support.uses.reports import deleted, downloaded, stored
from worker.core.uses.states import GrantState, grant_state
from worker.db.audit.selection.states import state_column
from worker.db.engine import read_transaction
from worker.db.uses.states import read_state_facts
from worker.usecases.uses.record import record_uses

KEY = "acme/a.png"
END = timedelta(seconds=300)


@pytest.fixture(autouse=True)
def tenant(apply_config: ApplyConfig) -> None:
    apply_config(tenant_config())


def issue(service: InProcessService, message: dict[str, Any]) -> list[str]:
    return [item["id"] for item in service.issue(message)["items"]]


def states(engine: Engine, grant_id: str, clock: Clock) -> dict[int, GrantState]:
    batch_id = grant_id.partition(".")[0]
    with read_transaction(engine) as connection:
        number = connection.scalar(select(Batch.batch_number).where(Batch.batch_id == batch_id))
        facts = read_state_facts(connection, number or 0, range(100))
    return {item: grant_state(each, clock()) for item, each in facts.items()}


def settle(
    engine: Engine, grant_id: str, clock: Clock, unused: str = "0-99", chunk: int = 0
) -> None:
    with read_transaction(engine) as connection:
        query = select(Batch.batch_number).where(Batch.batch_id == grant_id.partition(".")[0])
        number = connection.execute(query).scalar_one()
    settlements.settle(engine, number, chunk, clock(), unused)


def test_the_state_of_each_item_is_its_own(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    keys = [f"acme/{number}.png" for number in range(5)]
    ids = issue(service, upload_message(keys))
    clock.forward(seconds=1)
    reports = [
        stored(ids[1], keys[1], clock()),
        stored(ids[2], keys[2], clock() + 2 * END),
        stored(ids[3], keys[3], clock(), size=500_001),
        stored(ids[4], keys[4], clock()),
        deleted(keys[4], clock() + END),
    ]
    record_uses(reports[:4], service.context)
    record_uses(reports[4:], service.context)
    expected = {1: "used", 2: "late", 3: "mismatched", 4: "used"}
    assert states(engine, ids[0], clock) == {0: "open", **expected}
    clock.time += END
    assert states(engine, ids[0], clock) == {0: "unknown", **expected}
    settle(engine, ids[0], clock)
    assert states(engine, ids[0], clock) == {0: "unused", **expected}


def test_a_slot_is_unused_only_if_its_own_chunk_is_settled(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    message = upload_message([f"acme/{number}.png" for number in range(4)])
    ids = [each for chunk in split_chunks(message, 2) for each in issue(service, chunk)]
    clock.time += END
    settle(engine, ids[0], clock, chunk=1)
    found = states(engine, ids[0], clock)
    assert found == {0: "unknown", 1: "unknown", 2: "unused", 3: "unused"}


@pytest.mark.parametrize(
    ("unused", "expected"),
    [("", []), ("0", [0]), ("3", [3]), ("0-1,3", [0, 1, 3]), ("1-2,11-13", [1, 2])],
)
def test_a_slot_is_unused_only_if_its_settlement_names_it(
    engine: Engine, service: InProcessService, clock: Clock, unused: str, expected: list[int]
) -> None:
    ids = issue(service, upload_message([f"acme/{number}.png" for number in range(4)]))
    clock.time += END
    settle(engine, ids[0], clock, unused)
    found = states(engine, ids[0], clock)
    assert [item for item, state in found.items() if state == "unused"] == expected
    assert set(found.values()) <= {"unused", "unknown"}
    with read_transaction(engine) as connection:
        query = select(Grant.item_number, state_column(connection, clock()))
        assert {row[0]: row[1] for row in connection.execute(query)} == found


def test_the_last_object_of_a_grant_decides(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    (grant_id,) = issue(service, upload_message())
    good = stored(grant_id, KEY, clock())
    bad = stored(grant_id, KEY, clock() + timedelta(seconds=1), etag="b", size=500_001)
    record_uses([bad], service.context)
    record_uses([good], service.context)
    assert states(engine, grant_id, clock) == {0: "mismatched"}


def test_a_slot_is_overwritten_by_a_newer_object_of_another_grant_only(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    (first,), (second,) = (issue(service, upload_message()) for _ in range(2))
    later = clock() + timedelta(seconds=1)
    record_uses([stored(second, KEY, later, etag="b")], service.context)
    record_uses([stored(first, KEY, clock(), etag="a")], service.context)
    assert states(engine, first, clock) == {0: "overwritten"}
    assert states(engine, second, clock) == {0: "used"}


def test_a_grant_whose_content_is_stored_again_is_overwritten_no_more(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    (first,), (second,) = (issue(service, upload_message()) for _ in range(2))
    told = stored(first, KEY, clock(), etag="a")
    later = stored(second, KEY, clock() + timedelta(seconds=1), etag="b")
    record_uses([told, later], service.context)
    assert states(engine, first, clock) == {0: "overwritten"}
    record_uses([told._replace(occurred_at=clock() + timedelta(seconds=2))], service.context)
    assert states(engine, first, clock) == {0: "used"}
    assert states(engine, second, clock) == {0: "overwritten"}


def test_downloads_are_counted_and_refused_items_have_no_state(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    message = grant_message(["acme/a.pdf", "other/b.pdf", "acme/c.pdf"])
    items = service.issue(message)["items"]
    report = downloaded(items[0]["id"], "acme/a.pdf", clock())
    record_uses([report, report._replace(request_id="R2")], service.context)
    assert states(engine, items[0]["id"], clock) == {0: "used", 2: "open"}
    with read_transaction(engine) as connection:
        facts = read_state_facts(connection, 1, range(1))
    assert facts[0].downloads == 2
    assert list(facts) == [0]
