"""The answer to a producer about the grants of a batch: states of items, and counts."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select

from models import Batch, Grant
from tests.support.builders.messages import (
    POLICY,
    batch_id,
    grant_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.uses.reports import downloaded, stored
from tests.support.uses.settlements import settle
from tests.support.uses.use_service import UseService
from valetkey.wire.replies import Outcome, UseStates
from worker.audit.state_conditions import state_column
from worker.base.database_engine import read_transaction
from worker.rules.tenant_config import Tenant, TenantConfig
from worker.shared.pages import format_items

FIVE = [f"acme/{number}.png" for number in range(5)]
END = timedelta(seconds=300)
KEYS = ["acme/a.png", "acme/b.png", "globex/c.png", "acme/d.png", "acme/e.png"]


def status_message(batch: str, *items: int, **changes: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"v": 1, "ask": "status", "tenant": "acme", "batch": batch}
    return message | ({"items": list(items)} if items else {}) | changes


def issue_uploads(service: UseService, keys: list[str], **terms: Any) -> str:
    """Issue upload grants; return the id of their batch."""
    message = upload_message(keys, **terms)
    service.issue(message)
    return str(message["batch"])


def states(service: UseService, batch: str, *items: int) -> UseStates:
    return UseStates.model_validate(service.issue(status_message(batch, *items)))


def refusal(service: UseService, message: dict[str, Any]) -> tuple[str, str, Any]:
    outcome = Outcome.model_validate(service.issue(message))
    assert outcome.refusal is not None
    return str(outcome.refusal.code), outcome.refusal.field, outcome.refusal.limit


def test_a_stored_object_is_told_with_what_storage_has(service: UseService) -> None:
    batch = issue_uploads(service, KEYS)
    service.clock.forward(seconds=5)
    report = stored(f"{batch}.1", KEYS[1], service.clock(), version="v1", content_type="image/png")
    service.record(report)
    reply = states(service, batch, 3, 1)
    assert (reply.kind, reply.bucket, reply.total, reply.counts) == ("upload", "demo", 5, {})
    unused, used = reply.items
    assert (unused.item, unused.state, unused.key, unused.uses) == (3, "open", KEYS[3], 0)
    assert unused.expires_at == service.clock() + timedelta(seconds=295)
    assert (used.item, used.state, used.key, used.uses) == (1, "used", KEYS[1], 1)
    assert (used.size, used.etag, used.version) == (10, "0123456789abcdef", "v1")
    assert (used.stored_at, used.content_type, used.problem) == (service.clock(), "image/png", None)


def test_a_mismatched_object_is_told_with_the_limit_that_it_exceeds(service: UseService) -> None:
    batch = issue_uploads(service, KEYS, max_size=5)
    service.record(stored(f"{batch}.0", KEYS[0], service.clock()))
    (state,) = states(service, batch, 0).items
    assert (state.state, state.problem) == ("mismatched", "size: 10 bytes, granted 0 to 5")


def test_the_name_that_a_client_chose_for_its_form_is_told(service: UseService) -> None:
    service.apply(tenant_config(policies={"demo": replace(POLICY, free_names=True)}))
    batch = issue_uploads(service, ["acme/${filename}"])
    assert states(service, batch, 0).items[0].key == "acme/${filename}"
    service.record(stored(f"{batch}.0", "acme/cat.png", service.clock()))
    (state,) = states(service, batch, 0).items
    assert (state.state, state.key) == ("used", "acme/cat.png")


def test_the_newest_of_several_objects_is_told_and_decides(service: UseService) -> None:
    batch = issue_uploads(service, FIVE[:1])
    older = stored(f"{batch}.0", FIVE[0], service.clock(), etag="old")
    later = service.clock() + timedelta(seconds=2)
    service.record(older._replace(occurred_at=later, etag="new", size=500_001))
    service.record(older)
    (state,) = states(service, batch, 0).items
    found = (state.state, state.etag, state.size, state.uses)
    assert found == ("mismatched", "new", 500_001, 2)


def test_refused_and_undecided_items_have_states_of_their_own(service: UseService) -> None:
    message = upload_message(KEYS)
    chunks = split_chunks(message, 3)
    service.issue(chunks[0])
    reply = states(service, message["batch"], 0, 2, 4)
    assert [(state.state, state.key) for state in reply.items] == [
        ("open", KEYS[0]),
        ("refused", KEYS[2]),
        ("undecided", None),
    ]
    counts = {"open": 2, "refused": 1, "undecided": 2}
    assert states(service, message["batch"]).counts == counts
    service.clock.forward(days=2)  # the batch is closed by then
    assert states(service, message["batch"], 4).items[0].state == "refused"
    assert states(service, message["batch"]).counts == {"refused": 3, "unknown": 2}


def test_an_unknown_batch_or_item_is_refused(service: UseService) -> None:
    message = upload_message(KEYS)
    unknown = ("batch_unknown", "batch", None)
    assert refusal(service, status_message(message["batch"])) == unknown
    service.issue(message)
    beyond = refusal(service, status_message(message["batch"], 4, 5))
    assert beyond == ("grant_unknown", "items[1]", 4)
    config = tenant_config()
    other = Tenant("globex", trust="queue", policies=config.tenants["acme"].policies)
    service.apply(TenantConfig(config.buckets, {**config.tenants, "globex": other}))
    foreign = status_message(message["batch"], 0, tenant="globex")
    assert refusal(service, foreign) == unknown


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"items": []}, ("malformed", "items", 1)),
        ({"items": list(range(1_001))}, ("batch_too_large", "items", 1_000)),
        ({"items": [-1]}, ("malformed", "items[0]", 0)),
        ({"items": [1_000_000]}, ("malformed", "items[0]", 999_999)),
        ({"items": [0], "probe": "yes"}, ("malformed", "probe", None)),
        ({"item": 0}, ("unknown_field", "item", None)),
    ],
)
def test_a_wrong_field_is_named(
    changes: dict[str, Any], expected: tuple[str, str, Any], service: UseService
) -> None:
    assert refusal(service, status_message(batch_id(), **changes)) == expected


UPLOADS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 400), st.sampled_from([5, 50])))


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(uploads=UPLOADS, settled=st.sets(st.integers(0, 2)), seconds=st.integers(0, 600))
def test_counts_are_those_of_the_single_items(
    service: UseService, uploads: list[tuple[int, int, int]], settled: set[int], seconds: int
) -> None:
    keys = [f"acme/{batch_id()}", *(f"acme/{number}" for number in range(5)), "globex/x"]
    keys[3] = keys[0]  # two slots of one key overwrite each other
    message = upload_message(keys, max_size=10)
    for part in split_chunks(message, 3):
        service.issue(part)
    batch = message["batch"]
    reports = [
        stored(f"{batch}.{item}", keys[item], service.clock() + timedelta(seconds=at), size=size)
        for item, at, size in uploads
    ]
    early, late = reports[: len(reports) // 2], reports[len(reports) // 2 :]
    service.record(*early)
    known, number = {item for item, *_ in uploads[: len(early)]}, len(service.rows(Batch.batch_id))
    for chunk in settled:
        unused = {*range(3 * chunk, min(3 * chunk + 3, 7))} - known - {6}  # 6 is refused
        settle(service.engine, number, chunk, service.clock(), format_items(unused))
    service.record(*late)
    service.clock.forward(seconds=seconds)
    single = states(service, batch, *range(len(keys))).items
    assert states(service, batch).counts == Counter(str(state.state) for state in single)


def test_downloads_are_counted(service: UseService) -> None:
    _, name = service.ids(grant_message(["acme/a", "acme/b"]))
    batch = name.partition(".")[0]
    reports = [downloaded(name, "acme/b", service.clock(), request_id=f"R{n}") for n in range(3)]
    service.record(*reports)
    (state,) = states(service, batch, 1).items
    assert (state.state, state.uses, state.stored_at) == ("used", 3, None)
    assert states(service, batch).counts == {"open": 1, "used": 1}


@pytest.mark.parametrize("is_probe", [False, True])
def test_items_of_odd_numbers_cost_as_few_queries_as_one(
    service: UseService, *, is_probe: bool
) -> None:
    batch = issue_uploads(service, [f"acme/{number}.png" for number in range(200)])
    queries: list[str] = []
    event.listen(service.engine, "before_cursor_execute", lambda *args: queries.append(args[2]))
    service.issue(status_message(batch, 1, probe=is_probe))
    of_one = len(queries)
    service.issue(status_message(batch, *range(1, 200, 2), probe=is_probe))
    assert len(queries) <= 2 * of_one


def item_states(service: UseService, batch: str, *items: int) -> dict[int, str]:
    return {each.item: str(each.state) for each in states(service, batch, *items).items}


def test_a_slot_is_unused_only_if_its_own_chunk_is_settled(service: UseService) -> None:
    first, second = split_chunks(upload_message(FIVE[:4]), 2)
    service.issue(first)
    service.issue(second)
    service.clock.time += END
    settle(service.engine, 1, 1, service.clock(), "0-99")
    found = item_states(service, first["batch"], 0, 1, 2, 3)
    assert found == {0: "unknown", 1: "unknown", 2: "unused", 3: "unused"}


@pytest.mark.parametrize(
    ("unused", "expected"),
    [("", []), ("0", [0]), ("3", [3]), ("0-1,3", [0, 1, 3]), ("1-2,11-13", [1, 2])],
)
def test_a_slot_is_unused_only_if_its_settlement_names_it(
    service: UseService, unused: str, expected: list[int]
) -> None:
    batch = issue_uploads(service, FIVE[:4])
    service.clock.time += END
    settle(service.engine, 1, 0, service.clock(), unused)
    found = item_states(service, batch, 0, 1, 2, 3)
    assert found == {item: "unused" if item in expected else "unknown" for item in range(4)}
    with read_transaction(service.engine) as connection:
        query = select(Grant.item_number, state_column(connection, service.clock()))
        assert {row[0]: row[1] for row in connection.execute(query)} == found
