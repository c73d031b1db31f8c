"""A removed tenant's name is used again: the new tenant inherits nothing of the removed one."""

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Batch, Delivery, RejectionCount, Usage
from tests.integration.conftest import ApplyConfig
from tests.support.builders.manifest_service import ManifestService, manifest_chunks
from tests.support.builders.messages import (
    POLICY,
    Clock,
    grant_message,
    split_chunks,
    tenant_config,
)
from tests.support.builders.services import InProcessService
from tests.support.crypto.tenants import ACME_KEY, config_with_keys
from tests.support.crypto.tokens import sign_message
from worker.aws.clients import S3Clients
from worker.core.tenants.config import (
    Quota,
    QuotaOverride,
    TenantConfig,
    WebhookEndpoint,
)
from worker.db.engine import read_transaction, write_transaction
from worker.db.outbox import lease_delivery
from worker.db.tenants import add_quota_override
from worker.usecases.cleanup import clean_up

Replace = Callable[[], None]
LIMITS = (Quota("grants", "day", 3), Quota("grants", "live", 3))
HOOK = WebhookEndpoint("hook", "https://example.com/", "env:HOOK")
CONFIG = tenant_config(*LIMITS, endpoints={"hook": HOOK})


@pytest.fixture(autouse=True)
def config(apply_config: ApplyConfig) -> TenantConfig:
    apply_config(CONFIG)
    return CONFIG


@pytest.fixture
def replace_tenant(apply_config: ApplyConfig, config: TenantConfig) -> Replace:
    """A function that removes acme and creates it again with the same config."""

    def replace() -> None:
        apply_config(TenantConfig(config.buckets))
        apply_config(config)

    return replace


def about_batch(message: dict[str, Any], ask: str = "batch", **changes: Any) -> dict[str, Any]:
    return {"v": 1, "ask": ask, "tenant": "acme", "batch": message["batch"], **changes}


def cancel_message(message: dict[str, Any]) -> dict[str, Any]:
    return about_batch(message, "cancel", requested_by="ann")


def refusal_code(outcome: dict[str, Any]) -> str:
    return str(outcome["refusal"]["code"])


def used(engine: Engine, window: str) -> dict[str, int]:
    """Return the grants charged in a window, by tenant id."""
    query = select(Usage.tenant, Usage.grants).where(Usage.window == window)
    with read_transaction(engine) as connection:
        return {tenant_id: grants for tenant_id, grants in connection.execute(query) if grants}


def test_usage_is_not_inherited(
    engine: Engine, service: InProcessService, replace_tenant: Replace
) -> None:
    service.issue(grant_message(["acme/a", "acme/b"]))
    replace_tenant()
    usage = service.issue({"v": 1, "ask": "usage", "tenant": "acme"})
    assert (usage["tenant"], [quota["used"] for quota in usage["quotas"]]) == ("acme", [0, 0])
    outcome = service.issue(grant_message(["acme/a", "acme/b", "acme/c"]))
    assert [quota["used"] for quota in outcome["quotas"]] == [3, 3]
    assert used(engine, "day") == {"acme": 2, "acme~2": 3}


def test_grants_of_a_removed_tenant_are_released_from_its_own_usage(
    engine: Engine, service: InProcessService, replace_tenant: Replace, clock: Clock
) -> None:
    service.issue(grant_message(["acme/a", "acme/b"]))
    clock.forward(minutes=4)
    replace_tenant()
    service.issue(grant_message())
    clock.forward(minutes=2)
    assert clean_up(service.context)["released"] == 1
    assert used(engine, "live") == {"acme~2": 1}


def test_a_batch_id_of_a_removed_tenant_is_new(
    engine: Engine, service: InProcessService, replace_tenant: Replace
) -> None:
    message = grant_message()
    service.issue(message)
    replace_tenant()
    explanation = service.issue(message | {"ask": "explain"})
    assert explanation["rules"][1] == {"rule": "batch", "found": "not seen before"}
    other = message | {"items": [{"key": "acme/other"}], "reason": "another"}
    assert service.issue(other)["items"][0]["key"] == "acme/other"
    with read_transaction(engine) as connection:
        tenant_ids = connection.scalars(select(Batch.tenant).order_by(Batch.batch_number))
        assert list(tenant_ids) == ["acme", "acme~2"]


def test_a_batch_of_a_removed_tenant_is_not_opened_again(
    service: InProcessService, replace_tenant: Replace
) -> None:
    message = grant_message()
    service.issue(message)
    replace_tenant()
    for ask in (about_batch(message), about_batch(message, chunk=0)):
        assert refusal_code(service.issue(ask)) == "batch_unknown"


def test_a_batch_of_a_removed_tenant_is_not_continued(
    service: InProcessService, replace_tenant: Replace
) -> None:
    first, second = split_chunks(grant_message(["acme/a", "acme/b"]), 1)
    service.issue(first)
    replace_tenant()
    outcome = service.issue(second)  # opens a batch of the new tenant
    assert [quota["used"] for quota in outcome["quotas"]] == [2, 2]
    assert service.issue(about_batch(first))["decided"] == 1


def test_cancellations_neither_end_nor_refuse_batches_of_another_tenant_of_the_name(
    engine: Engine, service: InProcessService, replace_tenant: Replace
) -> None:
    first, _ = split_chunks(grant_message(["acme/a", "acme/b"]), 1)
    service.issue(first)
    cancelled = grant_message()
    service.issue(cancel_message(cancelled))
    replace_tenant()
    response = service.issue(cancel_message(first))
    assert (response["issued"], response["released"]) == (0, 0)
    assert used(engine, "live") == {"acme": 2}
    assert service.issue(cancelled)["status"] == "issued"


def test_a_raised_quota_is_not_inherited(
    engine: Engine, service: InProcessService, replace_tenant: Replace, clock: Clock
) -> None:
    override = QuotaOverride("grants", "day", 100, clock() + timedelta(hours=1))
    with write_transaction(engine) as connection:
        add_quota_override(connection, "acme", override, clock())
    limits = []
    for _ in range(2):
        outcome = service.issue(grant_message())
        limits.append([quota["limit"] for quota in outcome["quotas"]])
        replace_tenant()
    assert limits == [[103, 3], [3, 3]]


def test_a_webhook_of_a_removed_tenant_is_not_sent_to_an_endpoint_of_the_same_name(
    engine: Engine, service: InProcessService, replace_tenant: Replace, clock: Clock
) -> None:
    urls = []
    service.issue(grant_message(callback="hook"))
    replace_tenant()
    clock.forward(seconds=1)
    service.issue(grant_message(callback="hook"))
    for _ in range(2):  # the oldest first
        with write_transaction(engine) as connection:
            lease = lease_delivery(connection, "lease", clock())
        assert lease is not None
        urls.append(lease.url)
    assert urls == ["", HOOK.url]
    with read_transaction(engine) as connection:
        tenant_ids = connection.scalars(select(Delivery.tenant).order_by(Delivery.delivery_number))
        assert list(tenant_ids) == ["acme", "acme~2"]


def test_a_multipart_upload_of_a_removed_tenant_is_neither_continued_nor_aborted(
    service: InProcessService,
    replace_tenant: Replace,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aborted: list[str] = []
    client = SimpleNamespace(
        create_multipart_upload=lambda **_: {"UploadId": "upload"},
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
    replace_tenant()
    assert refusal_code(service.issue(parts)) == "upload_unknown"
    clock.forward(minutes=11)
    assert clean_up(service.context)["ended"] == 1
    assert aborted == []  # as for every removed tenant: the bucket's lifecycle rule ends it


def test_a_manifest_of_a_removed_tenant_is_not_written_under_the_new_ones_policy(
    manifests: ManifestService, apply_config: ApplyConfig
) -> None:
    manifests.issue(manifest_chunks())
    apply_config(TenantConfig())
    manifests.apply_policy(POLICY)
    assert manifests.write() == (0, 1)
    assert manifests.state.problem == "the tenant's policy no longer allows it to be stored"


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
