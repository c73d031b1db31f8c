"""A removed tenant's name is used again: the new tenant inherits nothing of the removed one."""

from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from models import Batch, Delivery, RejectionCount, Reservation
from tests.integration.conftest import ApplyConfig, ReplaceTenants
from tests.support.builders.messages import (
    Clock,
    grant_message,
    split_chunks,
    tenant_config,
)
from tests.support.builders.services import InProcessService
from tests.support.crypto.tenants import ACME_KEY, config_with_keys
from tests.support.crypto.tokens import sign_message
from worker.aws.clients import S3Clients
from worker.core.signing.sigv4 import Credentials
from worker.core.tenants.config import (
    Bucket,
    Quota,
    TenantConfig,
    WebhookEndpoint,
)
from worker.db.engine import read_transaction, write_transaction
from worker.db.outbox import Claim, due_endpoints, lease_deliveries
from worker.usecases.reissue import reissue_chunk_by_number
from worker.usecases.upkeep.abort_uploads import abort_expired
from worker.usecases.upkeep.delivery_attempt import attempt_delivery

LIMITS = (Quota("grants", "day", 3), Quota("grants", "live", 3))
HOOK = WebhookEndpoint("hook", "https://example.com/", "env:HOOK")
CONFIG = tenant_config(*LIMITS, endpoints={"hook": HOOK})


@pytest.fixture(autouse=True)
def config(apply_config: ApplyConfig) -> None:
    apply_config(CONFIG)


def about_batch(message: dict[str, Any], ask: str = "batch", **changes: Any) -> dict[str, Any]:
    return {"v": 1, "ask": ask, "tenant": "acme", "batch": message["batch"], **changes}


def cancel_message(message: dict[str, Any]) -> dict[str, Any]:
    return about_batch(message, "cancel", requested_by="ann")


def refusal_code(outcome: dict[str, Any]) -> str:
    return str(outcome["refusal"]["code"])


def test_a_batch_id_of_a_removed_tenant_is_new(
    engine: Engine, service: InProcessService, replace_tenants: ReplaceTenants
) -> None:
    message = grant_message()
    service.issue(message)
    replace_tenants()
    explanation = service.issue(message | {"ask": "explain"})
    assert explanation["rules"][1] == {"rule": "batch", "found": "not seen before"}
    other = message | {"items": [{"key": "acme/other"}], "reason": "another"}
    assert service.issue(other)["items"][0]["key"] == "acme/other"
    with read_transaction(engine) as connection:
        tenant_ids = connection.scalars(select(Batch.tenant).order_by(Batch.batch_number))
        assert list(tenant_ids) == ["acme", "acme~2"]


def test_a_batch_of_a_removed_tenant_is_not_opened_again(
    service: InProcessService, replace_tenants: ReplaceTenants
) -> None:
    message = grant_message()
    service.issue(message)
    replace_tenants()
    for ask in (about_batch(message), about_batch(message, chunk=0)):
        assert refusal_code(service.issue(ask)) == "batch_unknown"


def test_a_chunk_of_a_removed_tenant_is_not_signed_again(
    engine: Engine, service: InProcessService, replace_tenants: ReplaceTenants
) -> None:
    service.issue(grant_message())
    replace_tenants()
    with read_transaction(engine) as connection:
        batch_number = connection.scalars(select(Batch.batch_number)).one()
    decision = reissue_chunk_by_number(batch_number, 0, service.context)
    assert decision.refusal is not None
    assert (decision.refusal.code, decision.results) == ("bucket_not_allowed", [])


def test_chunks_of_the_new_tenant_are_signed_again_with_credentials_of_its_name(
    service: InProcessService, replace_tenants: ReplaceTenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    credentials = S3Clients.credentials

    def recorded(s3: S3Clients, bucket: Bucket, tenant: str, *rest: Any) -> Credentials:
        names.append(tenant)
        return credentials(s3, bucket, tenant, *rest)

    monkeypatch.setattr(S3Clients, "credentials", recorded)
    message = grant_message()
    replace_tenants()
    first, again = (service.issue(message)["items"] for _ in range(2))
    assert again == first
    assert set(names) == {"acme"}  # STS allows no tilde in the name of a session


def test_a_batch_of_a_removed_tenant_is_not_continued(
    service: InProcessService, replace_tenants: ReplaceTenants
) -> None:
    first, second = split_chunks(grant_message(["acme/a", "acme/b"]), 1)
    service.issue(first)
    replace_tenants()
    outcome = service.issue(second)  # opens a batch of the new tenant
    assert [quota["used"] for quota in outcome["quotas"]] == [2, 2]
    assert service.issue(about_batch(first))["decided"] == 1


def test_cancellations_neither_end_nor_refuse_batches_of_another_tenant_of_the_name(
    engine: Engine, service: InProcessService, replace_tenants: ReplaceTenants
) -> None:
    first, _ = split_chunks(grant_message(["acme/a", "acme/b"]), 1)
    service.issue(first)
    cancelled = grant_message()
    service.issue(cancel_message(cancelled))
    replace_tenants()
    response = service.issue(cancel_message(first))
    assert (response["issued"], response["released"]) == (0, 0)
    with read_transaction(engine) as connection:  # still reserved for the removed tenant
        assert connection.scalar(select(func.sum(Reservation.items))) == 2
    assert service.issue(cancelled)["status"] == "issued"


def test_a_webhook_of_a_removed_tenant_is_not_sent_to_an_endpoint_of_the_same_name(
    engine: Engine, service: InProcessService, replace_tenants: ReplaceTenants, clock: Clock
) -> None:
    service.issue(grant_message(callback="hook"))
    replace_tenants()
    clock.forward(seconds=1)
    service.issue(grant_message(callback="hook"))
    with write_transaction(engine) as connection:
        leased = [
            delivery
            for endpoint in due_endpoints(connection, clock())
            for delivery in lease_deliveries(connection, Claim(endpoint, 9), "lease", clock())
        ]
    problems = {
        delivery.endpoint.owner: attempt_delivery(delivery, service.context).problem
        for delivery in leased
    }
    assert problems["acme"] == "the endpoint is no longer configured"
    assert "is not set" in (problems["acme~2"] or "")  # its secret: it would have been sent
    with read_transaction(engine) as connection:
        tenant_ids = connection.scalars(select(Delivery.tenant).order_by(Delivery.delivery_number))
        assert list(tenant_ids) == ["acme", "acme~2"]


def test_a_multipart_upload_of_a_removed_tenant_is_neither_continued_nor_aborted(
    service: InProcessService,
    replace_tenants: ReplaceTenants,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aborted: list[str] = []
    client = SimpleNamespace(
        create_multipart_upload=lambda **_: {
            "UploadId": "upload",
            "ResponseMetadata": {"RetryAttempts": 0},
        },
        abort_multipart_upload=lambda **call: aborted.append(call["UploadId"]),
    )
    monkeypatch.setattr(S3Clients, "client", lambda *_: client)
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "max_size": 10}
    start = grant_message(["acme/film"], grant=terms)
    start["items"][0]["size"] = 10
    upload = service.issue(start)["items"][0]
    parts = grant_message(
        ["acme/film"],
        grant={"kind": "parts", "bucket": "demo", "expires_in": 60, "of": upload["id"]},
    )
    parts["items"][0]["part"] = 1
    replace_tenants()
    assert refusal_code(service.issue(parts)) == "upload_unknown"
    clock.forward(minutes=5)
    assert service.issue(start)["items"][0]["id"] == upload["id"]  # of a batch of its own
    clock.forward(minutes=6)
    assert abort_expired(service.context)["ended"] == 1
    assert aborted == []  # as for every removed tenant: the bucket's lifecycle rule ends it
    clock.forward(minutes=6)
    abort_expired(service.context)
    assert aborted == ["upload"]


def test_rejections_are_counted_for_the_tenant_of_that_time(
    engine: Engine, service: InProcessService, apply_config: ApplyConfig
) -> None:
    for _ in range(2):
        apply_config(TenantConfig())
        apply_config(config_with_keys(ACME_KEY))
        service.issue(grant_message())
    with read_transaction(engine) as connection:
        assert set(connection.scalars(select(RejectionCount.tenant))) == {"acme~2", "acme~3"}


def test_a_message_signed_for_a_removed_tenant_is_refused(
    service: InProcessService, apply_config: ApplyConfig, clock: Clock
) -> None:
    with_key = config_with_keys(ACME_KEY)
    apply_config(with_key)
    message = grant_message()
    captured = sign_message(message, ACME_KEY, clock())
    clock.forward(seconds=1)
    apply_config(TenantConfig())
    apply_config(with_key)
    assert refusal_code(service.issue(captured)) == "message_expired"
    assert service.issue(sign_message(message, ACME_KEY, clock()))["status"] == "issued"
