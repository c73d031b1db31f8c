"""The answer to a producer about the grants of a batch: states of items, and counts."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event, insert, select

from models import Batch, Settlement
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import (
    POLICY,
    Clock,
    batch_id,
    grant_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from tests.support.uses.reports import downloaded, stored
from valetkey.wire.replies import Outcome
from valetkey.wire.uses import UseStates
from worker.core.tenants.config import Tenant, TenantConfig
from worker.core.uses.item_ranges import format_items
from worker.db.engine import read_transaction, write_transaction
from worker.usecases.uses.record import record_uses

KEYS = ["acme/a.png", "acme/b.png", "globex/c.png", "acme/d.png", "acme/e.png"]


@pytest.fixture(autouse=True)
def tenant(apply_config: ApplyConfig) -> None:
    apply_config(tenant_config())


def status_message(batch: str, *items: int, **changes: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"v": 1, "ask": "status", "tenant": "acme", "batch": batch}
    return message | ({"items": list(items)} if items else {}) | changes


def states(service: InProcessService, batch: str, *items: int) -> UseStates:
    return UseStates.model_validate(service.issue(status_message(batch, *items)))


def refusal(service: InProcessService, message: dict[str, Any]) -> tuple[str, str, Any]:
    outcome = Outcome.model_validate(service.issue(message))
    assert outcome.refusal is not None
    return str(outcome.refusal.code), outcome.refusal.field, outcome.refusal.limit


def batch_number(engine: Engine, batch: str) -> int:
    with read_transaction(engine) as connection:
        query = select(Batch.batch_number).where(Batch.batch_id == batch)
        return connection.execute(query).scalar_one()


def settle(engine: Engine, number: int, chunk: int, unused: str, clock: Clock) -> None:
    values = {"batch_number": number, "chunk_number": chunk, "tenant": "acme"}
    values |= {"unused": unused, "used_bytes": 0, "returned_bytes": 0, "settled_at": clock()}
    with write_transaction(engine) as connection:
        connection.execute(insert(Settlement), values)


def test_a_stored_object_is_told_with_what_storage_has(
    service: InProcessService, clock: Clock
) -> None:
    message = upload_message(KEYS)
    service.issue(message)
    batch = message["batch"]
    clock.forward(seconds=5)
    report = stored(f"{batch}.1", KEYS[1], clock(), version="v1", content_type="image/png")
    record_uses([report], service.context)
    reply = states(service, batch, 3, 1)
    assert (reply.kind, reply.bucket, reply.total, reply.counts) == ("upload", "demo", 5, {})
    unused, used = reply.items
    assert (unused.item, unused.state, unused.key, unused.uses) == (3, "open", KEYS[3], 0)
    assert unused.expires_at == clock() + timedelta(seconds=295)
    assert (used.item, used.state, used.key, used.uses) == (1, "used", KEYS[1], 1)
    assert (used.size, used.etag, used.version) == (10, "0123456789abcdef", "v1")
    assert (used.stored_at, used.content_type, used.problem) == (clock(), "image/png", None)


def test_a_mismatched_object_is_told_with_the_limit_that_it_exceeds(
    service: InProcessService, clock: Clock
) -> None:
    message = upload_message(["acme/a.png"], max_size=5)
    service.issue(message)
    record_uses([stored(f"{message['batch']}.0", "acme/a.png", clock())], service.context)
    (state,) = states(service, message["batch"], 0).items
    assert (state.state, state.problem) == ("mismatched", "size: 10 bytes, granted 0 to 5")


def test_the_name_that_a_client_chose_for_its_form_is_told(
    service: InProcessService, clock: Clock, apply_config: ApplyConfig
) -> None:
    apply_config(tenant_config(policies={"demo": replace(POLICY, free_names=True)}))
    message = upload_message(["acme/${filename}"])
    service.issue(message)
    batch = message["batch"]
    assert states(service, batch, 0).items[0].key == "acme/${filename}"
    record_uses([stored(f"{batch}.0", "acme/cat.png", clock())], service.context)
    (state,) = states(service, batch, 0).items
    assert (state.state, state.key) == ("used", "acme/cat.png")


def test_the_newest_of_several_objects_is_told(service: InProcessService, clock: Clock) -> None:
    message = upload_message(["acme/a.png"])
    service.issue(message)
    name = f"{message['batch']}.0"
    newest = stored(name, "acme/a.png", clock() + timedelta(seconds=2), etag="new", size=7)
    record_uses([newest], service.context)
    record_uses([stored(name, "acme/a.png", clock(), etag="old")], service.context)
    (state,) = states(service, message["batch"], 0).items
    assert (state.etag, state.size, state.uses) == ("new", 7, 2)


def test_a_use_whose_commit_the_settlement_did_not_see_is_counted_once(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    message = upload_message(KEYS[:2])
    service.issue(message)
    record_uses([stored(f"{message['batch']}.0", KEYS[0], clock())], service.context)
    clock.forward(seconds=3)
    settle(engine, batch_number(engine, message["batch"]), 0, "0-1", clock)
    clock.forward(days=1)
    assert states(service, message["batch"]).counts == {"used": 1, "unused": 1}


def test_refused_and_undecided_items_have_states_of_their_own(
    service: InProcessService, clock: Clock
) -> None:
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
    clock.forward(days=2)  # the batch is closed by then
    assert states(service, message["batch"], 4).items[0].state == "refused"
    assert states(service, message["batch"]).counts == {"refused": 3, "unknown": 2}


def test_an_unknown_batch_or_item_is_refused(
    service: InProcessService, apply_config: ApplyConfig
) -> None:
    message = upload_message(KEYS)
    unknown = ("batch_unknown", "batch", None)
    assert refusal(service, status_message(message["batch"])) == unknown
    service.issue(message)
    beyond = refusal(service, status_message(message["batch"], 4, 5))
    assert beyond == ("grant_unknown", "items[1]", 4)
    config = tenant_config()
    other = Tenant("globex", trust="queue", policies=config.tenants["acme"].policies)
    apply_config(TenantConfig(config.buckets, {**config.tenants, "globex": other}))
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
    changes: dict[str, Any], expected: tuple[str, str, Any], service: InProcessService
) -> None:
    assert refusal(service, status_message(batch_id(), **changes)) == expected


UPLOADS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 400), st.sampled_from([5, 50])))


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(uploads=UPLOADS, settled=st.sets(st.integers(0, 2)), seconds=st.integers(0, 600))
def test_counts_are_those_of_the_single_items(
    service: InProcessService,
    engine: Engine,
    clock: Clock,
    uploads: list[tuple[int, int, int]],
    settled: set[int],
    seconds: int,
) -> None:
    keys = [f"acme/{batch_id()}", *(f"acme/{number}" for number in range(5)), "globex/x"]
    keys[3] = keys[0]  # two slots of one key overwrite each other
    message = upload_message(keys, max_size=10)
    for part in split_chunks(message, 3):
        service.issue(part)
    batch = message["batch"]
    reports = [
        stored(f"{batch}.{item}", keys[item], clock() + timedelta(seconds=at), size=size)
        for item, at, size in uploads
    ]
    early, late = reports[: len(reports) // 2], reports[len(reports) // 2 :]
    record_uses(early, service.context)
    known, number = {item for item, *_ in uploads[: len(early)]}, batch_number(engine, batch)
    for chunk in settled:
        unused = {*range(3 * chunk, min(3 * chunk + 3, 7))} - known - {6}  # 6 is refused
        settle(engine, number, chunk, format_items(unused), clock)
    record_uses(late, service.context)
    clock.forward(seconds=seconds)
    single = states(service, batch, *range(len(keys))).items
    assert states(service, batch).counts == Counter(str(state.state) for state in single)


def test_downloads_are_counted(service: InProcessService, clock: Clock) -> None:
    message = grant_message(["acme/a", "acme/b"])
    service.issue(message)
    name = f"{message['batch']}.1"
    reports = [downloaded(name, "acme/b", clock(), request_id=f"R{n}") for n in range(3)]
    record_uses(reports, service.context)
    (state,) = states(service, message["batch"], 1).items
    assert (state.state, state.uses, state.stored_at) == ("used", 3, None)
    assert states(service, message["batch"]).counts == {"open": 1, "used": 1}


@pytest.mark.parametrize("is_probe", [False, True])
def test_items_of_odd_numbers_cost_as_few_queries_as_one(
    engine: Engine, service: InProcessService, *, is_probe: bool
) -> None:
    message = upload_message([f"acme/{number}.png" for number in range(200)])
    service.issue(message)
    queries: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: queries.append(args[2]))
    service.issue(status_message(message["batch"], 1, probe=is_probe))
    of_one = len(queries)
    service.issue(status_message(message["batch"], *range(1, 200, 2), probe=is_probe))
    assert len(queries) <= 2 * of_one
