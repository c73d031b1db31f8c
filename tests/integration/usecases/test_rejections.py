"""What nobody is known to have sent is refused and counted, and leaves nothing else."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Base, Batch, Delivery, Grant, Rejection, Usage
from tests.integration.conftest import Declare
from tests.support.builders.messages import Clock, batch_id, grant_message
from tests.support.builders.services import InProcessService
from tests.support.crypto.tenants import OURS, QUEUES, SPARE, STRANGER, config_with_keys
from tests.support.crypto.tokens import forge_token, open_result, sign_message
from valetkey.crypto.jose import sign
from valetkey.crypto.keys import PrivateKey
from worker.core.tenants.config import Quota
from worker.db.engine import read_transaction


@pytest.fixture
def service(declare: Declare, issuer: InProcessService) -> InProcessService:
    declare(config_with_keys(OURS, SPARE, quotas=(Quota("grants", "day", 10),)))
    return issuer


def rows(engine: Engine, *tables: type[Base]) -> list[list[Any]]:
    with read_transaction(engine) as connection:
        return [list(connection.execute(select(table))) for table in tables]


def used(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        query = select(Usage.grants).where(Usage.window == "day")
        return connection.execute(query).scalar() or 0


def counted(engine: Engine) -> dict[tuple[str, str], int]:
    (found,) = rows(engine, Rejection)
    return {(row.tenant, row.code): row.count for row in found}


HEADER = {"alg": "Ed25519", "kid": OURS.id}
Making = Callable[[datetime], Any]


def signed(key: PrivateKey = OURS, **changes: Any) -> Making:
    return lambda now: sign_message(grant_message(**changes), key, now)


def another(**header: Any) -> Making:
    def make(now: datetime) -> str:
        asked = grant_message() | {"iat": int(now.timestamp())}
        return forge_token(HEADER | header, json.dumps(asked).encode(), OURS)

    return make


HOSTILE: list[tuple[Making, str, str]] = [
    (lambda _: "", "", "token_invalid"),
    (lambda _: "text", "", "token_invalid"),
    (lambda _: "\ud800", "", "token_invalid"),
    (lambda now: sign_message(grant_message(), OURS, now) + ".AAAA.AAAA", "", "token_invalid"),
    (lambda _: json.dumps(grant_message()), "", "token_invalid"),
    (lambda _: "A" * 6_000_000, "", "token_too_large"),
    (another(kid="k" * 1_000_000), "", "token_too_large"),
    (another(alg="none"), "", "algorithm_not_allowed"),
    (another(alg="HS256"), "", "algorithm_not_allowed"),
    (another(crit=["b64"], b64=False), "", "token_invalid"),
    (another(kid="nobody/main"), "", "key_unknown"),
    (another(kid="acme/../queueing"), "acme", "key_unknown"),
    (another(kid=7), "", "key_unknown"),
    (signed(STRANGER), "acme", "signature_invalid"),
    (lambda now: sign_message(grant_message(), OURS, now)[:-4], "acme", "signature_invalid"),
    (lambda _: sign(b"\xff", OURS), "acme", "token_invalid"),
    (lambda _: sign(b"[" * 100_000, OURS), "acme", "token_invalid"),
    (lambda _: sign(json.dumps(grant_message()).encode(), OURS), "acme", "claim_missing"),
    (
        lambda now: sign_message(grant_message(), OURS, now - timedelta(hours=25)),
        "acme",
        "message_expired",
    ),
    (
        lambda now: sign_message(grant_message(), OURS, now + timedelta(hours=1)),
        "acme",
        "message_from_future",
    ),
    (signed(tenant="queueing"), "acme", "tenant_mismatch"),
    (signed(QUEUES, tenant="acme"), "queueing", "tenant_mismatch"),
    (lambda _: grant_message(), "acme", "signature_required"),
    (lambda _: {"tenant": "acme"}, "acme", "signature_required"),
    (lambda _: grant_message(tenant="nobody"), "", "tenant_unknown"),
    (lambda _: None, "", "malformed"),
    (lambda _: [grant_message()], "", "malformed"),
    (lambda _: grant_message(tenant="queueing", batch=datetime.now(UTC)), "queueing", "malformed"),
    (signed(surprise=1), "acme", "unknown_field"),
]


def test_whatever_nobody_is_known_to_have_sent_is_refused_counted_and_leaves_nothing_else(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    for make, tenant, code in HOSTILE:
        before = counted(engine)
        refusal = service.issue(make(clock()))["refusal"]
        assert (refusal["code"], refusal["message"] != "") == (code, True)
        more = Counter(counted(engine))
        more.subtract(before)
        assert +more == {(tenant, code): 1}
    assert rows(engine, Batch, Grant, Usage, Delivery) == [[], [], [], []]


def test_a_flood_of_forgeries_is_one_row_an_hour_which_keeps_nothing_that_they_claim(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    for number in range(20):
        service.answer(sign_message(grant_message([f"acme/secret-{number}"]), STRANGER, clock()))
    clock.forward(hours=1)
    service.answer(sign_message(grant_message(["acme/secret"]), STRANGER, clock()))
    (found,) = rows(engine, Rejection)
    assert [row.count for row in found] == [20, 1]
    assert "secret" not in repr(found)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_is_nested_beyond_reason_is_refused_and_no_failure(service: InProcessService) -> None:
    for depth in (100, 900, 990, 10_000):
        nested: Any = []
        for _ in range(depth):
            nested = [nested]
        raw = grant_message(["queueing/a"], tenant="queueing", reason=nested)
        assert service.issue(raw)["refusal"]["code"] == "malformed"
        assert service.issue(nested)["refusal"]["code"] == "malformed"


def test_whatever_a_refused_message_calls_itself_its_answer_can_be_sent(
    service: InProcessService, clock: Clock
) -> None:
    for batch, chunk in product(["\0", "\ud800", "x" * 1_000, 7, None], [-1, 10**400, True, "0"]):
        answer = service.answer(
            sign_message(grant_message(batch=batch, chunk=chunk), OURS, clock())
        )
        said = open_result(answer.wire, OURS)
        assert (said["status"], said["chunk"]) == ("refused", 0)
        assert len(said["batch"]) <= len(batch_id())
