"""Messages without a known sender are refused and counted, and leave nothing else."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Base, Batch, Delivery, Grant, RejectionCount, Usage
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, batch_id, grant_message
from tests.support.builders.services import InProcessService
from tests.support.crypto.tenants import (
    ACME_KEY,
    ACME_SPARE_KEY,
    IMPOSTOR_KEY,
    QUEUEING_KEY,
    config_with_keys,
)
from tests.support.crypto.tokens import forge_token, sign_message, unseal_result
from valetkey.crypto.jose import sign
from valetkey.crypto.keys import PrivateKey
from worker.core.auth.claimed_chunk import message_digest
from worker.core.tenants.config import Quota
from worker.db.engine import read_transaction, write_transaction
from worker.usecases import dispatch


@pytest.fixture
def service(apply_config: ApplyConfig, service: InProcessService) -> InProcessService:
    apply_config(config_with_keys(ACME_KEY, ACME_SPARE_KEY, quotas=(Quota("grants", "day", 10),)))
    return service


def rows(engine: Engine, *tables: type[Base]) -> list[list[Any]]:
    with read_transaction(engine) as connection:
        return [list(connection.execute(select(table))) for table in tables]


def used(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        query = select(Usage.grants).where(Usage.window == "day")
        return connection.execute(query).scalar() or 0


def rejection_counts(engine: Engine) -> dict[tuple[str, str], int]:
    (rejections,) = rows(engine, RejectionCount)
    return {(row.tenant, row.code): row.count for row in rejections}


HEADER = {"alg": "Ed25519", "kid": ACME_KEY.id}
BuildRaw = Callable[[datetime], Any]


def signed(key: PrivateKey = ACME_KEY, **changes: Any) -> BuildRaw:
    return lambda now: sign_message(grant_message(**changes), key, now)


def forged(**header: Any) -> BuildRaw:
    def build(now: datetime) -> str:
        message = grant_message() | {"iat": int(now.timestamp())}
        return forge_token(HEADER | header, json.dumps(message).encode(), ACME_KEY)

    return build


HOSTILE: list[tuple[BuildRaw, str, str]] = [
    (lambda _: "", "", "token_invalid"),
    (lambda _: "text", "", "token_invalid"),
    (lambda _: "\ud800", "", "token_invalid"),
    (lambda now: sign_message(grant_message(), ACME_KEY, now) + ".AAAA.AAAA", "", "token_invalid"),
    (lambda _: json.dumps(grant_message()), "", "token_invalid"),
    (lambda _: "A" * 6_000_000, "", "token_too_large"),
    (forged(kid="k" * 1_000_000), "", "token_too_large"),
    (forged(alg="none"), "", "algorithm_not_allowed"),
    (forged(alg="HS256"), "", "algorithm_not_allowed"),
    (forged(crit=["b64"], b64=False), "", "token_invalid"),
    (forged(kid="nobody/main"), "", "key_unknown"),
    (forged(kid="acme/../queueing"), "acme", "key_unknown"),
    (forged(kid="acme/main "), "acme", "key_unknown"),
    (forged(kid=7), "", "token_invalid"),
    (signed(IMPOSTOR_KEY), "acme", "signature_invalid"),
    (lambda now: sign_message(grant_message(), ACME_KEY, now)[:-4], "acme", "signature_invalid"),
    (lambda _: sign(b"\xff", ACME_KEY), "acme", "token_invalid"),
    (lambda _: sign(b"[" * 100_000, ACME_KEY), "acme", "token_invalid"),
    (lambda _: sign(json.dumps(grant_message()).encode(), ACME_KEY), "acme", "claim_missing"),
    (
        lambda now: sign_message(grant_message(), ACME_KEY, now - timedelta(hours=25)),
        "acme",
        "message_expired",
    ),
    (
        lambda now: sign_message(grant_message(), ACME_KEY, now + timedelta(hours=1)),
        "acme",
        "message_from_future",
    ),
    (signed(tenant="queueing"), "acme", "tenant_mismatch"),
    (signed(QUEUEING_KEY, tenant="acme"), "queueing", "tenant_mismatch"),
    (lambda _: grant_message(), "acme", "signature_required"),
    (lambda _: {"tenant": "acme"}, "acme", "signature_required"),
    (lambda _: grant_message(tenant="nobody"), "", "tenant_unknown"),
    (lambda _: {"tenant": "nobody"}, "", "tenant_unknown"),
    (lambda _: {"tenant": "No Body"}, "", "malformed"),
    (lambda _: None, "", "malformed"),
    (lambda _: [grant_message()], "", "malformed"),
    (lambda _: grant_message(tenant="queueing", batch=datetime.now(UTC)), "queueing", "malformed"),
    (signed(surprise=1), "acme", "unknown_field"),
]
SENT_INSTEAD = {"key_unknown": "signature_invalid", "tenant_unknown": "signature_required"}
"""The codes that are counted for operators, and the ones that strangers get instead."""


def test_a_message_without_a_known_sender_is_refused_and_counted_and_leaves_nothing_else(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    for build, tenant, code in HOSTILE:
        before = rejection_counts(engine)
        refusal = service.issue(build(clock()))["refusal"]
        sent_code = SENT_INSTEAD.get(code, code)
        assert (refusal["code"], refusal["message"] != "") == (sent_code, True)
        new_counts = Counter(rejection_counts(engine))
        new_counts.subtract(before)
        assert +new_counts == {(tenant, code): 1}
    assert rows(engine, Batch, Grant, Usage, Delivery) == [[], [], [], []]


def test_the_answers_to_strangers_are_byte_equal_whether_or_not_a_tenant_or_key_exists(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    message = grant_message(surprise=1)
    tenants = [message | {"tenant": name} for name in ("acme", "globex", "nobody")]
    kids = ("acme/main", "acme/spare", "acme/none", "nobody/main")
    tokens = [sign_message(message, replace(IMPOSTOR_KEY, id=kid), clock()) for kid in kids]
    for raws in (tenants, tokens):
        answers = {json.dumps(service.respond(raw).sent).encode() for raw in raws}
        assert len(answers) == 1
    assert rejection_counts(engine) == {
        ("acme", "signature_required"): 1,
        ("globex", "signature_required"): 1,
        ("", "tenant_unknown"): 1,
        ("acme", "signature_invalid"): 2,
        ("acme", "key_unknown"): 1,
        ("", "key_unknown"): 1,
    }


def test_a_flood_of_forgeries_is_one_row_per_hour_without_their_content(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    for number in range(20):
        service.respond(
            sign_message(grant_message([f"acme/secret-{number}"]), IMPOSTOR_KEY, clock())
        )
    clock.forward(hours=1)
    service.respond(sign_message(grant_message(["acme/secret"]), IMPOSTOR_KEY, clock()))
    (rejections,) = rows(engine, RejectionCount)
    assert [row.count for row in rejections] == [20, 1]
    assert "secret" not in repr(rejections)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_deeply_nested_message_is_refused_as_malformed(service: InProcessService) -> None:
    for depth in (100, 900, 990, 10_000):
        nested: Any = []
        for _ in range(depth):
            nested = [nested]
        raw = grant_message(["queueing/a"], tenant="queueing", reason=nested)
        assert service.issue(raw)["refusal"]["code"] == "malformed"
        assert service.issue(nested)["refusal"]["code"] == "malformed"


def test_the_response_to_a_message_with_an_invalid_batch_or_chunk_can_be_sent(
    service: InProcessService, clock: Clock
) -> None:
    for batch, chunk in product(["\0", "\ud800", "x" * 1_000, 7, None], [-1, 10**400, True, "0"]):
        response = service.respond(
            sign_message(grant_message(batch=batch, chunk=chunk), ACME_KEY, clock())
        )
        outcome = unseal_result(response.sent, ACME_KEY)
        assert (outcome["status"], outcome["chunk"]) == ("refused", 0)
        assert len(outcome["batch"]) <= len(batch_id())


def test_a_rejected_message_is_hashed_before_the_tables_are_locked(
    engine: Engine, service: InProcessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_digest(raw: Any) -> bytes:
        with write_transaction(engine):  # would wait for itself within the other transaction
            return message_digest(raw)

    monkeypatch.setattr(dispatch, "message_digest", write_and_digest)
    assert service.issue({"v": 1})["status"] == "refused"
