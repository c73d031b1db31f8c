"""A batch by its id alone: how far it has come, and its chunks' grants once more."""

from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from models import Chunk, Usage
from tests.integration.conftest import Declare
from tests.support.builders.messages import (
    Clock,
    batch_id,
    grant_message,
    put_message,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from tests.support.crypto.tokens import open_result, sign_message
from tests.support.crypto.tokens import tenant_keys as public
from valetkey.crypto.keys import generate_key
from valetkey.wire.messages import Outcome
from valetkey.wire.states import BatchState
from worker.core.tenants.config import Quota, Tenant, TenantConfig
from worker.db.engine import read_transaction

MAIN, SPARE = generate_key("acme/main"), generate_key("acme/spare")
KEYS = ["acme/a", "globex/b", "acme/c", "acme/d", "acme/e"]
QUOTA = Quota("grants", "day", 10)


@pytest.fixture
def service(declare: Declare, issuer: InProcessService) -> InProcessService:
    declare(tenant_config(QUOTA))
    return issuer


def chunk_of(asked: dict[str, Any], number: int) -> dict[str, Any]:
    first = number * asked["chunk_size"]
    items = asked["items"][first : first + asked["chunk_size"]]
    return asked | {"chunk": number, "items": items}


def asking(batch: str, **more: Any) -> dict[str, Any]:
    return {"v": 1, "ask": "batch", "tenant": "acme", "batch": batch, **more}


def state(service: InProcessService, batch: str) -> BatchState:
    return BatchState.model_validate(service.issue(asking(batch)))


def refused(service: InProcessService, batch: str, **more: Any) -> tuple[str, str]:
    outcome = Outcome.model_validate(service.issue(asking(batch, **more)))
    assert outcome.refusal is not None
    assert (outcome.items, len(outcome.quotas)) == ([], 1)
    return outcome.refusal.code.value, outcome.refusal.field


def charged(engine: Engine) -> tuple[int, int]:
    """Grants charged today, and chunks in the log."""
    with read_transaction(engine) as connection:
        used = connection.scalar(select(func.sum(Usage.grants)).where(Usage.window == "day"))
        return used or 0, connection.scalar(select(func.count()).select_from(Chunk)) or 0


def test_a_batch_tells_how_far_it_has_come(service: InProcessService) -> None:
    batch = grant_message(KEYS, chunk_size=2)
    assert refused(service, batch["batch"]) == ("batch_unknown", "batch")
    service.issue(chunk_of(batch, 0))
    begun = state(service, batch["batch"])
    assert (begun.total, begun.chunk_size, begun.kind, begun.bucket) == (5, 2, "download", "demo")
    assert (begun.decided, begun.issued, begun.refused) == (1, 1, 1)
    service.issue(chunk_of(batch, 1))
    service.issue(chunk_of(batch, 2))
    whole = state(service, batch["batch"])
    assert (whole.decided, whole.issued, whole.refused) == (3, 4, 1)
    assert (whole.refusal, whole.cancelled) == (None, False)


def test_a_chunk_is_answered_again_to_the_byte_and_charged_once(
    declare: Declare, issuer: InProcessService, engine: Engine, clock: Clock
) -> None:
    declare(tenant_config())
    for batch in (grant_message(KEYS), upload_message(KEYS), put_message(dict.fromkeys(KEYS, 5))):
        first = issuer.issue(batch)
        before = charged(engine)
        clock.forward(minutes=1)
        again = issuer.issue(asking(batch["batch"], chunk=0))
        assert again["items"] == first["items"]
        assert (again["batch"], again["chunk"]) == (batch["batch"], 0)
        assert charged(engine) == before


def test_a_chunk_that_has_not_come_is_told_from_one_that_cannot(
    service: InProcessService, engine: Engine
) -> None:
    batch = grant_message(KEYS, chunk_size=2)
    assert refused(service, batch["batch"], chunk=1) == ("batch_unknown", "batch")
    service.issue(chunk_of(batch, 0))
    assert refused(service, batch["batch"], chunk=1) == ("batch_unknown", "chunk")
    assert refused(service, batch["batch"], chunk=3) == ("chunk_invalid", "chunk")
    service.issue(chunk_of(batch, 1))
    told = service.issue(asking(batch["batch"], chunk=1))
    assert (told["status"], told["quotas"][0]["used"]) == ("issued", 4)
    assert charged(engine)[1] == 2


@pytest.mark.parametrize("number", [1_000_000, 2**31, 2**63, 2**100])
def test_a_chunk_that_no_batch_has_is_refused_with_its_limit(
    service: InProcessService, number: int
) -> None:
    refusal = service.issue(asking(batch_id(), chunk=number))["refusal"]
    told = (refusal["code"], refusal["field"], refusal["limit"])
    assert told == ("chunk_invalid", "chunk", 999_999)


def test_a_batch_that_was_refused_says_so_and_each_decided_chunk_its_keys(
    service: InProcessService,
) -> None:
    batch = grant_message([f"acme/{number}" for number in range(11)], chunk_size=4)
    service.issue(chunk_of(batch, 0))
    found = state(service, batch["batch"])
    assert found.refusal is not None
    assert (found.refusal.code, found.decided, found.refused) == ("quota_exceeded", 1, 4)
    again = Outcome.model_validate(service.issue(asking(batch["batch"], chunk=0)))
    assert [item.key for item in again.items] == [f"acme/{number}" for number in range(4)]
    assert refused(service, batch["batch"], chunk=2) == ("quota_exceeded", "total")


def test_a_cancelled_batch_has_what_was_granted_and_nothing_more(service: InProcessService) -> None:
    batch = grant_message(KEYS, chunk_size=2)
    first = service.issue(chunk_of(batch, 0))
    cancel = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "tests"}
    service.issue(cancel | {"batch": batch["batch"]})
    found = state(service, batch["batch"])
    assert found.refusal is not None
    assert (found.cancelled, found.refusal.code) == (True, "batch_closed")
    assert service.issue(asking(batch["batch"], chunk=0))["items"] == first["items"]
    assert refused(service, batch["batch"], chunk=1) == ("batch_closed", "batch")


def test_what_is_no_longer_allowed_is_not_granted_again(
    declare: Declare, service: InProcessService
) -> None:
    batch = grant_message(KEYS)
    service.issue(batch)
    declare(tenant_config(QUOTA, policies={}))
    again = Outcome.model_validate(service.issue(asking(batch["batch"], chunk=0)))
    assert [item.key for item in again.items] == KEYS
    codes = [item.code for item in again.items if hasattr(item, "code")]
    assert codes == ["bucket_not_allowed", "key_outside_prefix", *["bucket_not_allowed"] * 3]


def test_another_tenants_batch_is_as_unknown_as_one_that_never_was(
    declare: Declare, service: InProcessService
) -> None:
    known = tenant_config(QUOTA)
    declare(TenantConfig(known.buckets, {**known.tenants, "globex": Tenant("globex", "queue")}))
    batch = grant_message(KEYS)
    service.issue(batch)
    for more in ({}, {"chunk": 0}):
        theirs = asking(batch["batch"], **more) | {"tenant": "globex"}
        never = asking(batch_id(), **more) | {"tenant": "globex"}
        refusals = [service.issue(raw)["refusal"] for raw in (theirs, never)]
        assert refusals[0] == refusals[1]
        assert refusals[0]["code"] == "batch_unknown"


def test_any_of_the_tenants_keys_reopens_it_and_alone_reads_the_answer(
    declare: Declare, issuer: InProcessService, clock: Clock
) -> None:
    declare(tenant_config(QUOTA, trust="keys", keys=public(MAIN, SPARE)))
    batch = grant_message(KEYS)
    first = open_result(issuer.answer(sign_message(batch, MAIN, clock())).wire, MAIN)
    again = issuer.answer(sign_message(asking(batch["batch"], chunk=0), SPARE, clock()))
    assert open_result(again.wire, SPARE)["items"] == first["items"]
    assert not again.notifies
    assert issuer.issue(asking(batch["batch"], chunk=0))["refusal"]["code"] == "signature_required"
