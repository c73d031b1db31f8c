"""Reopening a batch by its id: its state, and the outcomes of its chunks again."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from models import Chunk, Usage
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import (
    DEMO,
    Clock,
    batch_id,
    grant_message,
    put_message,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from tests.support.crypto.tokens import sign_message, tenant_keys, unseal_result
from valetkey.crypto.keys import generate_key
from valetkey.wire.replies import BatchState, Outcome
from worker.core.tenants.config import Quota, Tenant, TenantConfig
from worker.db.engine import read_transaction

MAIN, SPARE = generate_key("acme/main"), generate_key("acme/spare")
KEYS = ["acme/a", "globex/b", "acme/c", "acme/d", "acme/e"]
QUOTA = Quota("grants", "day", 10)


@pytest.fixture
def service(apply_config: ApplyConfig, service: InProcessService) -> InProcessService:
    apply_config(tenant_config(QUOTA))
    return service


def chunk_message(batch: dict[str, Any], number: int) -> dict[str, Any]:
    """Return one chunk of a message with all items of a batch."""
    first = number * batch["chunk_size"]
    items = batch["items"][first : first + batch["chunk_size"]]
    return batch | {"chunk": number, "items": items}


def batch_message(batch: str, **chunk: int) -> dict[str, Any]:
    """Return a message that reopens a batch, or one chunk of it."""
    return {"v": 1, "ask": "batch", "tenant": "acme", "batch": batch, **chunk}


def batch_state(service: InProcessService, batch: str) -> BatchState:
    return BatchState.model_validate(service.issue(batch_message(batch)))


def refusal_of(service: InProcessService, batch: str, **chunk: int) -> tuple[str, str]:
    """Return the code and field of the refusal to reopen a batch, or one chunk of it."""
    outcome = Outcome.model_validate(service.issue(batch_message(batch, **chunk)))
    assert outcome.refusal is not None
    assert (outcome.items, len(outcome.quotas)) == ([], 1)
    return str(outcome.refusal.code), outcome.refusal.field


def charged(engine: Engine) -> tuple[int, int]:
    """Return the number of grants charged today, and the number of chunks in the audit log."""
    with read_transaction(engine) as connection:
        used = connection.scalar(select(func.sum(Usage.grants)).where(Usage.window == "day"))
        return used or 0, connection.scalar(select(func.count()).select_from(Chunk)) or 0


def test_the_state_of_a_batch_counts_its_decided_chunks_and_items(
    service: InProcessService,
) -> None:
    batch = grant_message(KEYS, chunk_size=2)
    assert refusal_of(service, batch["batch"]) == ("batch_unknown", "batch")
    service.issue(chunk_message(batch, 0))
    state = batch_state(service, batch["batch"])
    assert (state.total, state.chunk_size, state.kind, state.bucket) == (5, 2, "download", "demo")
    assert (state.decided, state.issued, state.refused) == (1, 1, 1)
    service.issue(chunk_message(batch, 1))
    service.issue(chunk_message(batch, 2))
    state = batch_state(service, batch["batch"])
    assert (state.decided, state.issued, state.refused) == (3, 4, 1)
    assert (state.refusal, state.cancelled) == (None, False)


def test_a_reopened_chunk_has_the_same_bytes_and_is_charged_once(
    apply_config: ApplyConfig, service: InProcessService, engine: Engine, clock: Clock
) -> None:
    apply_config(tenant_config())
    for batch in (grant_message(KEYS), upload_message(KEYS), put_message(dict.fromkeys(KEYS, 5))):
        first = service.issue(batch)
        before = charged(engine)
        clock.forward(minutes=1)
        again = service.issue(batch_message(batch["batch"], chunk=0))
        assert again["items"] == first["items"]
        assert (again["batch"], again["chunk"]) == (batch["batch"], 0)
        assert charged(engine) == before


def test_a_chunk_that_has_not_arrived_is_distinguished_from_one_that_does_not_exist(
    service: InProcessService, engine: Engine
) -> None:
    batch = grant_message(KEYS, chunk_size=2)
    assert refusal_of(service, batch["batch"], chunk=1) == ("batch_unknown", "batch")
    service.issue(chunk_message(batch, 0))
    assert refusal_of(service, batch["batch"], chunk=1) == ("batch_unknown", "chunk")
    assert refusal_of(service, batch["batch"], chunk=3) == ("chunk_invalid", "chunk")
    service.issue(chunk_message(batch, 1))
    outcome = service.issue(batch_message(batch["batch"], chunk=1))
    assert (outcome["status"], outcome["quotas"][0]["used"]) == ("issued", 4)
    assert charged(engine)[1] == 2


@pytest.mark.parametrize("number", [1_000_000, 2**31, 2**63, 2**100])
def test_a_chunk_number_beyond_every_batch_is_refused_with_the_limit(
    service: InProcessService, number: int
) -> None:
    refusal = service.issue(batch_message(batch_id(), chunk=number))["refusal"]
    values = (refusal["code"], refusal["field"], refusal["limit"])
    assert values == ("chunk_invalid", "chunk", 999_999)


def test_a_refused_batch_has_its_refusal_and_its_decided_chunks_have_their_keys(
    service: InProcessService,
) -> None:
    batch = grant_message([f"acme/{number}" for number in range(11)], chunk_size=4)
    service.issue(chunk_message(batch, 0))
    state = batch_state(service, batch["batch"])
    assert state.refusal is not None
    assert (state.refusal.code, state.decided, state.refused) == ("quota_exceeded", 1, 4)
    again = Outcome.model_validate(service.issue(batch_message(batch["batch"], chunk=0)))
    assert [item.key for item in again.items] == [f"acme/{number}" for number in range(4)]
    assert refusal_of(service, batch["batch"], chunk=2) == ("quota_exceeded", "total")


def test_a_cancelled_batch_has_only_what_was_granted_before(service: InProcessService) -> None:
    batch = grant_message(KEYS, chunk_size=2)
    first = service.issue(chunk_message(batch, 0))
    cancel = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "tests"}
    service.issue(cancel | {"batch": batch["batch"]})
    state = batch_state(service, batch["batch"])
    assert state.refusal is not None
    assert (state.cancelled, state.refusal.code) == (True, "batch_closed")
    assert service.issue(batch_message(batch["batch"], chunk=0))["items"] == first["items"]
    assert refusal_of(service, batch["batch"], chunk=1) == ("batch_closed", "batch")


def test_grants_that_policy_no_longer_allows_are_refused(
    apply_config: ApplyConfig, service: InProcessService
) -> None:
    batch = grant_message(KEYS)
    service.issue(batch)
    apply_config(tenant_config(QUOTA, policies={}))
    again = Outcome.model_validate(service.issue(batch_message(batch["batch"], chunk=0)))
    assert [item.key for item in again.items] == KEYS
    codes = [item.code for item in again.items if hasattr(item, "code")]
    assert codes == ["bucket_not_allowed", "key_outside_prefix", *["bucket_not_allowed"] * 3]


def test_a_form_without_a_size_is_refused_once_storage_accepts_only_puts(
    apply_config: ApplyConfig, service: InProcessService
) -> None:
    batch = upload_message()
    service.issue(batch)
    config = tenant_config(QUOTA)
    apply_config(replace(config, buckets={"demo": replace(DEMO, post=False)}))
    (item,) = service.issue(batch_message(batch["batch"], chunk=0))["items"]
    assert (item["code"], item["field"]) == ("size_required", "items[0].size")


def test_another_tenants_batch_is_refused_like_one_that_does_not_exist(
    apply_config: ApplyConfig, service: InProcessService
) -> None:
    config = tenant_config(QUOTA)
    tenants = {**config.tenants, "globex": Tenant("globex", "queue")}
    apply_config(TenantConfig(config.buckets, tenants))
    batch = grant_message(KEYS)
    service.issue(batch)
    chunks: list[dict[str, int]] = [{}, {"chunk": 0}]
    for chunk in chunks:
        others = batch_message(batch["batch"], **chunk) | {"tenant": "globex"}
        unknown = batch_message(batch_id(), **chunk) | {"tenant": "globex"}
        refusals = [service.issue(message)["refusal"] for message in (others, unknown)]
        assert refusals[0] == refusals[1]
        assert refusals[0]["code"] == "batch_unknown"


def test_any_key_of_the_tenant_reopens_a_batch_and_only_it_opens_the_response(
    apply_config: ApplyConfig, service: InProcessService, clock: Clock
) -> None:
    apply_config(tenant_config(QUOTA, trust="keys", keys=tenant_keys(MAIN, SPARE)))
    batch = grant_message(KEYS)
    first = unseal_result(service.respond(sign_message(batch, MAIN, clock())).sent, MAIN)
    again = service.respond(sign_message(batch_message(batch["batch"], chunk=0), SPARE, clock()))
    assert unseal_result(again.sent, SPARE)["items"] == first["items"]
    assert not again.has_webhook
    assert (
        service.issue(batch_message(batch["batch"], chunk=0))["refusal"]["code"]
        == "signature_required"
    )
