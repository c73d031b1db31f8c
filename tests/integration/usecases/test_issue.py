from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Batch, Chunk, Grant, Reissue, Usage
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    grant_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from worker.core.tenants.config import Quota, TenantConfig
from worker.db.engine import read_transaction


def used(engine: Engine, metric: str = "grants") -> int:
    with read_transaction(engine) as connection:
        query = select(getattr(Usage, metric)).where(Usage.window == "hour")
        return connection.execute(query).scalar() or 0


def audit_rows(engine: Engine) -> list[tuple[str, str | None]]:
    """Return the object key and refusal code of each audit row."""
    query = select(Grant.object_key, Grant.code).order_by(Grant.batch_number, Grant.item_number)
    with read_transaction(engine) as connection:
        return [(row.object_key, row.code) for row in connection.execute(query)]


def count(engine: Engine, table: Any) -> int:
    with read_transaction(engine) as connection:
        return len(connection.execute(select(table)).all())


def chunks(object_keys: list[str], size: int) -> list[dict[str, Any]]:
    return split_chunks(grant_message(object_keys), size)


def test_a_grant_has_an_audit_row_and_is_charged(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config())
    outcome = service.issue(grant_message(["acme/a.pdf"]))
    assert outcome["items"][0]["url"].startswith("http://127.0.0.1:9/valetkey-demo/acme/a.pdf?")
    assert audit_rows(engine) == [("acme/a.pdf", None)]
    assert used(engine) == 1


def test_an_upload_is_charged_its_maximum_size(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config())
    service.issue(upload_message(["acme/a.png", "acme/b.png"], max_size=700))
    assert used(engine, "upload_bytes") == 1_400


def test_no_url_or_signature_is_stored(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config())
    grant = service.issue(grant_message())["items"][0]
    signature = grant["url"].rpartition("=")[2]
    with read_transaction(engine) as connection:
        rows = [connection.execute(select(table)).all() for table in (Batch, Chunk, Grant)]
    assert signature not in repr(rows)
    assert "X-Amz" not in repr(rows)


def test_a_refused_item_has_an_audit_row_and_is_not_charged(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config())
    outcome = service.issue(grant_message(["acme/a", "acme/../b", "globex/c"]))
    assert [item.get("code") for item in outcome["items"]] == [
        None,
        "key_traversal",
        "key_outside_prefix",
    ]
    assert audit_rows(engine) == [
        ("acme/a", None),
        ("acme/../b", "key_traversal"),
        ("globex/c", "key_outside_prefix"),
    ]
    assert used(engine) == 1


def test_an_object_key_that_no_table_can_store_is_refused_and_recorded_escaped(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config())
    outcome = service.issue(grant_message(["acme/\0", "acme/\ud800"]))
    assert [item["code"] for item in outcome["items"]] == ["key_control", "key_invalid"]
    assert audit_rows(engine) == [("acme/\\0", "key_control"), ("acme/\\ud800", "key_invalid")]


def test_a_message_delivered_again_has_the_same_outcome_and_is_charged_once(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService, clock: Clock
) -> None:
    apply_config(tenant_config())
    request = grant_message(["acme/a", "acme/../b"])
    request["items"][0]["filename"] = "a.pdf"
    first = service.issue(request)
    clock.forward(minutes=2)
    assert service.issue(request) == first
    assert used(engine) == 1
    assert count(engine, Grant) == 2


def test_a_refused_batch_delivered_again_has_the_same_refusal(
    apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config(Quota("grants", "hour", 1)))
    request = grant_message(["acme/a", "acme/b"])
    first = service.issue(request)
    apply_config(tenant_config(Quota("grants", "hour", 100)))
    assert service.issue(request)["refusal"] == first["refusal"]
    assert first["refusal"]["code"] == "quota_exceeded"


@pytest.mark.parametrize(
    "changes",
    [
        {"items": [{"key": "acme/other"}]},
        {"requested_by": "someone-else"},
        {"grant": {"kind": "download", "bucket": "demo", "expires_in": 301}},
    ],
)
def test_a_batch_id_used_again_with_other_content_is_refused(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService, changes: dict[str, Any]
) -> None:
    apply_config(tenant_config())
    request = grant_message()
    service.issue(request)
    assert service.issue(request | changes)["refusal"]["code"] == "batch_conflict"
    assert used(engine) == 1


def test_the_first_chunk_charges_for_the_whole_batch(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config())
    first, second = chunks(["acme/a", "acme/b", "acme/c"], 2)
    service.issue(second)
    assert used(engine) == 3
    service.issue(first)
    assert used(engine) == 3


def test_items_refused_in_a_later_chunk_are_released(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService, clock: Clock
) -> None:
    apply_config(tenant_config())
    first, second = chunks(["acme/a", "acme/b", "globex/c", "acme/d"], 2)
    service.issue(first)
    clock.forward(hours=3)
    service.issue(second)
    assert used(engine) == 3


def test_all_chunks_of_a_batch_over_quota_are_refused_and_none_charged(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config(Quota("grants", "hour", 3)))
    outcomes = [service.issue(chunk) for chunk in chunks([f"acme/{n}" for n in range(4)], 2)]
    assert [outcome["status"] for outcome in outcomes] == ["refused", "refused"]
    assert {code for _, code in audit_rows(engine)} == {"quota_exceeded"}
    assert used(engine) == 0


def test_a_quota_starts_again_with_its_window(
    apply_config: ApplyConfig, service: InProcessService, clock: Clock
) -> None:
    apply_config(tenant_config(Quota("grants", "hour", 1)))
    assert service.issue(grant_message())["status"] == "issued"
    assert service.issue(grant_message())["status"] == "refused"
    clock.forward(minutes=30)
    assert service.issue(grant_message())["status"] == "issued"


@pytest.mark.parametrize("raw", [None, {}, {"batch": "x", "chunk": True}, {"batch": ["\0"]}])
def test_a_malformed_message_is_refused_and_opens_no_batch(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService, raw: Any
) -> None:
    apply_config(tenant_config())
    assert service.issue(raw)["status"] == "refused"
    assert count(engine, Batch) == 0


def test_two_tenants_can_use_the_same_batch_id(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    config = tenant_config()
    policies = {"demo": replace(POLICY, prefixes=("globex/",))}
    globex = replace(config.tenants["acme"], name="globex", policies=policies)
    apply_config(TenantConfig(config.buckets, {**config.tenants, "globex": globex}))
    request = grant_message()
    first = service.issue(request)
    other = service.issue(request | {"tenant": "globex"})
    assert other["items"][0]["code"] == "key_outside_prefix"
    assert service.issue(request) == first
    assert count(engine, Batch) == 2


def test_grants_that_differ_from_the_recorded_ones_are_recorded_as_reissued(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config())
    request = grant_message()
    first = service.issue(request)
    moved = replace(DEMO, bucket="moved")
    apply_config(TenantConfig({"demo": moved}, tenant_config().tenants))
    second = service.issue(request)
    assert second["items"][0]["url"] != first["items"][0]["url"]
    assert count(engine, Reissue) == 1
    service.issue(request)
    assert count(engine, Reissue) == 1


def test_a_request_for_a_bucket_profile_that_boto3_rejects_is_refused_and_recorded(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(TenantConfig({"demo": replace(DEMO, bucket="no bucket")}, tenant_config().tenants))
    assert service.issue(grant_message())["refusal"]["code"] == "bucket_unusable"
    assert audit_rows(engine) == [("acme/a.pdf", "bucket_unusable")]


def test_a_grant_whose_bucket_profile_boto3_now_rejects_is_refused_and_stays_recorded(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config())
    request = grant_message()
    service.issue(request)
    apply_config(TenantConfig({"demo": replace(DEMO, bucket="no bucket")}, tenant_config().tenants))
    assert service.issue(request)["refusal"]["code"] == "bucket_unusable"
    assert audit_rows(engine) == [("acme/a.pdf", None)]
