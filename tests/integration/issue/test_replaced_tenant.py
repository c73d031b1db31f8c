"""A removed tenant's name is used again: the new tenant inherits nothing of the removed one."""

from types import SimpleNamespace
from typing import Any

import pytest

from models import Batch, RejectionCount
from tests.integration.conftest import ReplaceTenants
from tests.support.builders.delivery_service import DeliveryService
from tests.support.builders.messages import (
    Clock,
    about_batch,
    grant_message,
    multipart_message,
    parts_message,
    split_chunks,
    tenant_config,
)
from tests.support.builders.services import InProcessService
from tests.support.crypto.tenants import ACME_KEY, config_with_keys
from tests.support.crypto.tokens import sign_message
from tests.support.features import needs
from valetkey.signing.sigv4 import Credentials
from worker.aborts.multipart_aborts import abort_expired_uploads
from worker.aws.s3_clients import S3Clients
from worker.rules.tenant_config import Bucket, Quota, TenantConfig


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    service.apply(tenant_config(Quota("grants", "day", 3), Quota("grants", "live", 3)))
    return service


@needs("explain")
def test_a_batch_of_a_removed_tenant_is_not_opened_again_and_its_id_is_new(
    service: InProcessService, replace_tenants: ReplaceTenants
) -> None:
    message = grant_message()
    service.issue(message)
    replace_tenants()
    reopen = about_batch(message["batch"])
    for ask in (reopen, reopen | {"chunk": 0}):
        assert service.refusal_code(ask) == "batch_unknown"
    explanation = service.issue(message | {"ask": "explain"})
    assert explanation["rules"][1] == {"rule": "batch", "found": "not seen before"}
    other = message | {"items": [{"key": "acme/other"}], "reason": "another"}
    assert service.issue(other)["items"][0]["key"] == "acme/other"
    assert service.rows(Batch.tenant) == [("acme",), ("acme~2",)]


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


@needs("quota")
def test_neither_a_batch_nor_the_usage_of_a_removed_tenant_is_continued(
    service: InProcessService, replace_tenants: ReplaceTenants
) -> None:
    first, second = split_chunks(grant_message(["acme/a", "acme/b"]), 1)
    service.issue(first)
    replace_tenants()
    usage = service.issue({"v": 1, "ask": "usage", "tenant": "acme"})
    assert (usage["tenant"], [quota["used"] for quota in usage["quotas"]]) == ("acme", [0, 0])
    outcome = service.issue(second)  # opens a batch of the new tenant
    assert [quota["used"] for quota in outcome["quotas"]] == [2, 2]
    assert service.issue(about_batch(first["batch"]))["decided"] == 1


def test_a_webhook_of_a_removed_tenant_is_not_sent_to_an_endpoint_of_the_same_name(
    service: InProcessService, replace_tenants: ReplaceTenants
) -> None:
    webhooks = DeliveryService(service)
    webhooks.issue()
    replace_tenants()
    webhooks.issue()
    assert webhooks.deliver() == (1, 1)
    (row,) = webhooks.rows("acme")
    assert row.problem == "the endpoint is no longer configured"
    assert webhooks.states("acme~2") == {"delivered": 1}


def test_a_multipart_upload_of_a_removed_tenant_is_neither_continued_nor_aborted(
    service: InProcessService,
    replace_tenants: ReplaceTenants,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aborted: list[str] = []
    started = {"UploadId": "upload", "ResponseMetadata": {"RetryAttempts": 0}}
    client = SimpleNamespace(
        create_multipart_upload=lambda **_: started,
        get_paginator=lambda _: SimpleNamespace(paginate=lambda **_: []),
        abort_multipart_upload=lambda **call: aborted.append(call["UploadId"]),
    )
    monkeypatch.setattr(S3Clients, "client", lambda *_: client)
    start = multipart_message()
    upload = service.issue(start)["items"][0]
    replace_tenants()
    assert service.refusal_code(parts_message(upload["id"], 1)) == "upload_unknown"
    clock.forward(minutes=5)
    assert service.issue(start)["items"][0]["id"] == upload["id"]  # of a batch of its own
    clock.forward(minutes=6)
    assert abort_expired_uploads(service.context)["ended"] == 1
    assert aborted == []  # as for every removed tenant: the bucket's lifecycle rule ends it
    clock.forward(minutes=6)
    abort_expired_uploads(service.context)
    assert aborted == ["upload"]


def test_rejections_are_counted_for_the_tenant_of_that_time(service: InProcessService) -> None:
    for _ in range(2):
        service.apply(TenantConfig())
        service.apply(config_with_keys(ACME_KEY))
        service.issue(grant_message())
    assert {row.tenant for row in service.rows(RejectionCount)} == {"acme~2", "acme~3"}


def test_a_message_for_a_removed_tenant_is_refused(service: InProcessService, clock: Clock) -> None:
    with_key = config_with_keys(ACME_KEY)
    service.apply(with_key)
    message = grant_message()
    captured = sign_message(message, ACME_KEY, clock())
    clock.forward(seconds=1)
    service.apply(TenantConfig())
    service.apply(with_key)
    assert service.refusal_code(captured) == "message_expired"
    assert service.issue(sign_message(message, ACME_KEY, clock()))["status"] == "issued"
