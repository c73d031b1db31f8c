"""From a message off the queue to a response that only its sender can read.

Messages without a known sender are refused and counted, and leave nothing else.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from models import Batch, Chunk, Delivery, Grant, RejectionCount, Usage
from tests.support.builders.messages import Clock, batch_id, grant_message
from tests.support.builders.services import InProcessService
from tests.support.builders.triggers import triggered_tasks
from tests.support.crypto.tenants import (
    ACME_KEY,
    ACME_SPARE_KEY,
    IMPOSTOR_KEY,
    QUEUEING_KEY,
    config_with_keys,
    config_with_tenant_keys,
)
from tests.support.crypto.tokens import forge_token, sign_message, tenant_keys, unseal_result
from tests.support.features import needs
from valetkey.crypto.jose import WrongKey, recipient_key_id, sign, unseal
from valetkey.crypto.keys import PrivateKey
from valetkey.wire.refusals import Code
from worker.base.database_engine import write_transaction
from worker.broker.message_guard import ExpiredMessage, InvalidMessage
from worker.broker.result_store import _refusal_values
from worker.contract.json_schemas import reply_schema
from worker.issue import dispatch
from worker.rules.authentication import message_digest
from worker.rules.tenant_config import Quota


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    service.apply(config_with_keys(ACME_KEY, ACME_SPARE_KEY, quotas=(Quota("grants", "day", 10),)))
    return service


def test_a_response_is_sealed_to_the_key_that_signed_and_no_other_key_opens_it(
    service: InProcessService, clock: Clock
) -> None:
    response = service.respond(sign_message(grant_message(), ACME_SPARE_KEY, clock()))
    assert isinstance(response.sent, str)
    assert recipient_key_id(response.sent) == ACME_SPARE_KEY.id
    assert unseal_result(response.sent, ACME_SPARE_KEY) == response.values
    assert response.values["items"][0]["url"]
    for other in (ACME_KEY, IMPOSTOR_KEY):
        with pytest.raises(WrongKey):
            unseal(response.sent, other)


def test_the_signing_key_is_in_the_audit_log(service: InProcessService, clock: Clock) -> None:
    service.respond(sign_message(grant_message(), ACME_SPARE_KEY, clock()))
    service.respond(grant_message(["queueing/a"], tenant="queueing"))
    assert {row.signing_key for row in service.rows(Chunk)} == {"spare", None}


def test_the_response_to_a_replayed_message_is_sealed_to_its_sender_and_charged_once(
    service: InProcessService, clock: Clock
) -> None:
    request = grant_message(["acme/a", "acme/../b"])
    request["items"][0]["filename"] = "a.pdf"
    captured = sign_message(request, ACME_KEY, clock())
    first = service.respond(captured)
    clock.forward(minutes=4)
    second = service.respond(captured)
    assert unseal_result(second.sent, ACME_KEY) == unseal_result(first.sent, ACME_KEY)
    assert second.sent != first.sent
    assert (service.charged("day"), len(service.rows(Grant))) == (1, 2)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda _: None, "signature_invalid"),
        (lambda key: replace(key, revoked=True), "key_revoked"),
        (lambda key: replace(key, expires=datetime(2026, 11, 24, tzinfo=UTC)), "key_expired"),
    ],
)
def test_a_message_is_refused_once_its_key_is_removed_revoked_or_expired(
    service: InProcessService, clock: Clock, change: Any, code: str
) -> None:
    captured = sign_message(grant_message(), ACME_KEY, clock())
    assert "url" in service.issue(captured)["items"][0]
    main = change(tenant_keys(ACME_KEY)["main"])
    keys = tenant_keys(ACME_SPARE_KEY) | ({} if main is None else {"main": main})
    service.apply(config_with_tenant_keys(keys))
    response = service.respond(captured)
    assert response.sent == response.values
    assert (response.values["refusal"]["code"], response.values["items"]) == (code, [])


@needs("webhooks")
def test_only_a_decision_with_a_known_callback_triggers_a_webhook(
    service: InProcessService, clock: Clock
) -> None:
    def has_webhook(**changes: Any) -> bool:
        token = sign_message(grant_message(**changes), ACME_KEY, clock())
        return triggered_tasks(service.respond(token)) == ["valetkey.deliver"]

    assert has_webhook(callback="hook")
    assert not has_webhook()
    assert not has_webhook(callback="hook", ask="explain")
    assert not has_webhook(callback="nowhere")
    assert not triggered_tasks(service.respond(grant_message(callback="hook")))
    assert {row.event for row in service.rows(Delivery)} == {"grants.decided", "batch.completed"}


def rejection_counts(service: InProcessService) -> dict[tuple[str, str], int]:
    return {(row.tenant, row.code): row.count for row in service.rows(RejectionCount)}


HEADER = {"alg": "Ed25519", "kid": ACME_KEY.id}
BuildRaw = Callable[[datetime], Any]


def signed(key: PrivateKey = ACME_KEY, at: timedelta = timedelta(0), **changes: Any) -> BuildRaw:
    return lambda now: sign_message(grant_message(**changes), key, now + at)


def forged(**header: Any) -> BuildRaw:
    def build(now: datetime) -> str:
        message = grant_message() | {"iat": int(now.timestamp())}
        return forge_token(HEADER | header, json.dumps(message).encode(), ACME_KEY)

    return build


def test_both_keys_are_accepted_during_a_rotation(service: InProcessService, clock: Clock) -> None:
    before, request = sign_message(grant_message(), ACME_KEY, clock()), grant_message()
    service.apply(config_with_keys(ACME_KEY, ACME_SPARE_KEY))
    assert service.issue(before)["status"] == "issued"
    first = service.respond(sign_message(request, ACME_KEY, clock()))
    again = service.respond(sign_message(request, ACME_SPARE_KEY, clock()))
    assert again.values["items"] == first.values["items"]
    assert unseal_result(again.sent, ACME_SPARE_KEY) == again.values
    service.apply(config_with_keys(ACME_SPARE_KEY))
    token = sign_message(grant_message(), ACME_SPARE_KEY, clock())
    assert service.issue(token)["status"] == "issued"


def test_a_message_replayed_after_a_day_is_refused(service: InProcessService, clock: Clock) -> None:
    captured = sign_message(grant_message(), ACME_KEY, clock())
    service.respond(captured)
    clock.forward(hours=24)
    assert isinstance(service.respond(captured).sent, str)
    clock.forward(seconds=1)
    response = service.respond(captured)
    assert response.sent == response.values
    assert response.values["refusal"]["code"] == "message_expired"


HOSTILE: list[tuple[BuildRaw, str, str]] = [
    (forged(alg="HS256"), "", "algorithm_not_allowed"),
    (lambda _: json.dumps(grant_message()), "", "token_invalid"),
    (lambda _: "text", "", "token_invalid"),
    (lambda _: "", "", "token_invalid"),
    (lambda _: "\ud800", "", "token_invalid"),
    (lambda now: sign_message(grant_message(), ACME_KEY, now) + ".AAAA.AAAA", "", "token_invalid"),
    (lambda _: "A" * 6_000_000, "", "token_too_large"),
    (forged(kid="k" * 1_000_000), "", "token_too_large"),
    (forged(alg="none"), "", "algorithm_not_allowed"),
    (forged(crit=["b64"], b64=False), "", "token_invalid"),
    (forged(kid="nobody/main"), "", "key_unknown"),
    (forged(kid="acme/../queueing"), "acme", "key_unknown"),
    (forged(kid="acme/main "), "acme", "key_unknown"),
    (forged(kid=7), "", "token_invalid"),
    (signed(IMPOSTOR_KEY), "acme", "signature_invalid"),
    (lambda now: sign_message(grant_message(), ACME_KEY, now)[:-2], "acme", "signature_invalid"),
    (lambda _: sign(b"\xff", ACME_KEY), "acme", "token_invalid"),
    (lambda _: sign(b"[" * 100_000, ACME_KEY), "acme", "token_invalid"),
    (lambda _: sign(json.dumps(grant_message()).encode(), ACME_KEY), "acme", "claim_missing"),
    (signed(at=timedelta(hours=-25)), "acme", "message_expired"),
    (signed(at=timedelta(hours=1)), "acme", "message_from_future"),
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
    service: InProcessService, clock: Clock
) -> None:
    for build, tenant, code in HOSTILE:
        before = rejection_counts(service)
        refusal = service.issue(build(clock()))["refusal"]
        sent_code = SENT_INSTEAD.get(code, code)
        assert (refusal["code"], refusal["message"] != "") == (sent_code, True)
        new_counts = Counter(rejection_counts(service))
        new_counts.subtract(before)
        assert +new_counts == {(tenant, code): 1}
    for table in (Batch, Grant, Usage, Delivery):
        assert service.rows(table) == []


def test_the_answers_to_strangers_are_byte_equal_whether_or_not_a_tenant_or_key_exists(
    service: InProcessService, clock: Clock
) -> None:
    message = grant_message(surprise=1)
    tenants = [message | {"tenant": name} for name in ("acme", "globex", "nobody")]
    kids = ("acme/main", "acme/spare", "acme/none", "nobody/main")
    tokens = [sign_message(message, replace(IMPOSTOR_KEY, id=kid), clock()) for kid in kids]
    for raws in (tenants, tokens):
        answers = {json.dumps(service.respond(raw).sent).encode() for raw in raws}
        assert len(answers) == 1
    assert rejection_counts(service) == {
        ("acme", "signature_required"): 1,
        ("globex", "signature_required"): 1,
        ("", "tenant_unknown"): 1,
        ("acme", "signature_invalid"): 2,
        ("acme", "key_unknown"): 1,
        ("", "key_unknown"): 1,
    }


def test_a_flood_of_forgeries_is_one_row_per_hour_without_their_content(
    service: InProcessService, clock: Clock
) -> None:
    for number in range(20):
        forgery = grant_message([f"acme/secret-{number}"])
        service.respond(sign_message(forgery, IMPOSTOR_KEY, clock()))
    clock.forward(hours=1)
    service.respond(sign_message(grant_message(["acme/secret"]), IMPOSTOR_KEY, clock()))
    rejections = service.rows(RejectionCount)
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
        message = grant_message(batch=batch, chunk=chunk)
        response = service.respond(sign_message(message, ACME_KEY, clock()))
        outcome = unseal_result(response.sent, ACME_KEY)
        assert (outcome["status"], outcome["chunk"]) == ("refused", 0)
        assert len(outcome["batch"]) <= len(batch_id())


def test_a_rejected_message_is_hashed_before_the_tables_are_locked(
    service: InProcessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_digest(raw: Any) -> bytes:
        with write_transaction(service.engine):  # within the other transaction, waits for itself
            return message_digest(raw)

    monkeypatch.setattr(dispatch, "message_digest", write_and_digest)
    assert service.issue({"v": 1})["status"] == "refused"


def test_the_refusal_of_a_discarded_message_matches_the_schema() -> None:
    Draft202012Validator(reply_schema()).validate(_refusal_values(InvalidMessage("body")))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ExpiredMessage("expires"), Code.DEADLINE_PASSED),
        (InvalidMessage("expires"), Code.MESSAGE_INVALID),
    ],
)
def test_only_a_message_that_has_expired_is_refused_as_too_late(
    error: InvalidMessage, code: Code
) -> None:
    assert _refusal_values(error)["refusal"]["code"] == code
