"""From a message off the queue to a response that only its sender can read."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Base, Cancellation, Chunk, Delivery, Usage
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, grant_message
from tests.support.builders.services import InProcessService
from tests.support.crypto.tenants import (
    ACME_KEY,
    ACME_SPARE_KEY,
    IMPOSTOR_KEY,
    QUEUEING_KEY,
    config_with_keys,
    config_with_tenant_keys,
)
from tests.support.crypto.tokens import sign_message, tenant_keys, unseal_result
from valetkey.crypto.jose import WrongKey, recipient_key_id, unseal
from worker.core.tenants.config import Quota
from worker.db.engine import read_transaction

CANCEL = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "tests"}


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


def test_a_refusal_of_a_signed_message_is_sealed_to_its_key_too(
    service: InProcessService, clock: Clock
) -> None:
    for message in (grant_message(v=9), grant_message(deadline="2020-01-01T00:00:00Z")):
        response = service.respond(sign_message(message, ACME_KEY, clock()))
        outcome = unseal_result(response.sent, ACME_KEY)
        assert (outcome["batch"], outcome["status"]) == (message["batch"], "refused")
        assert [quota["used"] for quota in outcome["quotas"]] == [0]


def test_a_tenant_that_trusts_the_queue_gets_a_sealed_response_if_it_signs(
    service: InProcessService, clock: Clock
) -> None:
    message = grant_message(["queueing/a"], tenant="queueing")
    sealed = service.respond(sign_message(message, QUEUEING_KEY, clock()))
    assert unseal_result(sealed.sent, QUEUEING_KEY) == sealed.values
    plain = service.respond(message)
    assert plain.sent == plain.values == sealed.values


def test_the_signing_key_is_in_the_audit_log(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    service.respond(sign_message(grant_message(), ACME_SPARE_KEY, clock()))
    service.respond(grant_message(["queueing/a"], tenant="queueing"))
    (chunks,) = rows(engine, Chunk)
    assert {row.signing_key for row in chunks} == {"spare", None}


def test_the_response_to_a_replayed_message_is_sealed_to_its_sender_and_charged_once(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    captured = sign_message(grant_message(), ACME_KEY, clock())
    first = service.respond(captured)
    clock.forward(minutes=4)
    second = service.respond(captured)
    assert unseal_result(second.sent, ACME_KEY) == unseal_result(first.sent, ACME_KEY)
    assert second.sent != first.sent
    assert used(engine) == 1


def test_a_message_that_is_replayed_after_a_day_is_refused(
    service: InProcessService, clock: Clock
) -> None:
    captured = sign_message(grant_message(), ACME_KEY, clock())
    service.respond(captured)
    clock.forward(hours=24)
    assert isinstance(service.respond(captured).sent, str)
    clock.forward(seconds=1)
    response = service.respond(captured)
    assert response.sent == response.values
    assert response.values["refusal"]["code"] == "message_expired"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda _: None, "signature_invalid"),
        (lambda key: replace(key, revoked=True), "key_revoked"),
        (lambda key: replace(key, expires=datetime(2026, 11, 24, tzinfo=UTC)), "key_expired"),
    ],
)
def test_a_message_is_refused_once_its_key_is_removed_revoked_or_expired(
    apply_config: ApplyConfig, service: InProcessService, clock: Clock, change: Any, code: str
) -> None:
    captured = sign_message(grant_message(), ACME_KEY, clock())
    assert "url" in service.issue(captured)["items"][0]
    main = change(tenant_keys(ACME_KEY)["main"])
    keys = tenant_keys(ACME_SPARE_KEY) | ({} if main is None else {"main": main})
    apply_config(config_with_tenant_keys(keys))
    response = service.respond(captured)
    assert response.sent == response.values
    assert (response.values["refusal"]["code"], response.values["items"]) == (code, [])


def test_both_keys_are_accepted_during_a_rotation(
    apply_config: ApplyConfig, service: InProcessService, clock: Clock
) -> None:
    before, request = sign_message(grant_message(), ACME_KEY, clock()), grant_message()
    apply_config(config_with_keys(ACME_KEY, ACME_SPARE_KEY))
    assert service.issue(before)["status"] == "issued"
    first = service.respond(sign_message(request, ACME_KEY, clock()))
    again = service.respond(sign_message(request, ACME_SPARE_KEY, clock()))
    assert (
        unseal_result(again.sent, ACME_SPARE_KEY)["items"]
        == unseal_result(first.sent, ACME_KEY)["items"]
    )
    apply_config(config_with_keys(ACME_SPARE_KEY))
    assert (
        service.issue(sign_message(grant_message(), ACME_SPARE_KEY, clock()))["status"] == "issued"
    )


def test_a_usage_message_can_be_replayed_and_changes_nothing(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    service.respond(sign_message(grant_message(), ACME_KEY, clock()))
    captured = sign_message({"v": 1, "ask": "usage", "tenant": "acme"}, ACME_KEY, clock())
    responses = [unseal_result(service.respond(captured).sent, ACME_KEY) for _ in range(3)]
    assert responses[0] == responses[2]
    assert (responses[0]["quotas"][0]["used"], used(engine)) == (1, 1)


def test_a_replayed_cancellation_releases_nothing_more(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    batch = grant_message(["acme/a", "acme/b"], chunk_size=1)
    service.respond(sign_message(batch | {"items": batch["items"][:1]}, ACME_KEY, clock()))
    captured = sign_message(CANCEL | {"batch": batch["batch"]}, ACME_KEY, clock())
    assert unseal_result(service.respond(captured).sent, ACME_KEY)["released"] == 1
    assert unseal_result(service.respond(captured).sent, ACME_KEY)["released"] == 0
    assert used(engine) == 1


def test_a_cancellation_of_another_tenants_batch_has_no_effect_on_it(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    batch = grant_message(["queueing/a", "queueing/b"], tenant="queueing", chunk_size=1)
    service.issue(batch | {"items": batch["items"][:1]})
    response = service.issue(sign_message(CANCEL | {"batch": batch["batch"]}, ACME_KEY, clock()))
    assert (response["issued"], response["released"]) == (0, 0)
    second = batch | {"chunk": 1, "items": batch["items"][1:]}
    assert service.issue(second)["status"] == "issued"
    (cancellations,) = rows(engine, Cancellation)
    assert [row.tenant for row in cancellations] == ["acme"]


def test_only_a_decision_with_a_known_callback_triggers_a_webhook(
    service: InProcessService, clock: Clock, engine: Engine
) -> None:
    def has_webhook(**changes: Any) -> bool:
        token = sign_message(grant_message(**changes), ACME_KEY, clock())
        return service.respond(token).has_webhook

    assert has_webhook(callback="hook")
    assert not has_webhook()
    assert not has_webhook(callback="hook", ask="explain")
    assert not has_webhook(callback="nowhere")
    assert not service.respond(grant_message(callback="hook")).has_webhook
    assert len(rows(engine, Delivery)[0]) == 1
