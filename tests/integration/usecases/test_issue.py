from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Batch, Chunk, Delivery, Grant, Reissue, Usage
from tests.integration.conftest import Declare
from tests.support.builders.messages import (
    DEMO,
    Clock,
    batch_id,
    grant_message,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from worker.core.tenants.config import Endpoint, Quota, TenantConfig
from worker.db.engine import read_transaction


def used(engine: Engine, metric: str = "grants") -> int:
    with read_transaction(engine) as connection:
        query = select(getattr(Usage, metric)).where(Usage.window == "hour")
        return connection.execute(query).scalar() or 0


def rows(engine: Engine) -> list[tuple[str, str | None]]:
    with read_transaction(engine) as connection:
        query = select(Grant.key, Grant.code).order_by(Grant.batch, Grant.number)
        return [(row.key, row.code) for row in connection.execute(query)]


def count(engine: Engine, table: Any) -> int:
    with read_transaction(engine) as connection:
        return len(connection.execute(select(table)).all())


def chunks(keys: list[str], size: int) -> list[dict[str, Any]]:
    whole = grant_message(keys, chunk_size=size)
    return [
        whole | {"chunk": number, "items": whole["items"][number * size : (number + 1) * size]}
        for number in range(-(-len(keys) // size))
    ]


def test_a_grant_has_its_row_and_its_charge(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    declare(tenant_config())
    outcome = issuer.issue(grant_message(["acme/a.pdf"]))
    assert outcome["items"][0]["url"].startswith("http://127.0.0.1:9/valetkey-demo/acme/a.pdf?")
    assert rows(engine) == [("acme/a.pdf", None)]
    assert used(engine) == 1


def test_an_upload_is_charged_its_largest_size(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    declare(tenant_config())
    issuer.issue(upload_message(["acme/a.png", "acme/b.png"], max_size=700))
    assert used(engine, "upload_bytes") == 1_400


def test_no_url_or_signature_is_stored(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    declare(tenant_config())
    grant = issuer.issue(grant_message())["items"][0]
    signature = grant["url"].rpartition("=")[2]
    with read_transaction(engine) as connection:
        stored = [connection.execute(select(table)).all() for table in (Batch, Chunk, Grant)]
    assert signature not in repr(stored)
    assert "X-Amz" not in repr(stored)


def test_a_refused_item_has_a_row_and_no_charge(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    declare(tenant_config())
    outcome = issuer.issue(grant_message(["acme/a", "acme/../b", "globex/c"]))
    assert [item.get("code") for item in outcome["items"]] == [
        None,
        "key_traversal",
        "key_outside_prefix",
    ]
    assert rows(engine) == [
        ("acme/a", None),
        ("acme/../b", "key_traversal"),
        ("globex/c", "key_outside_prefix"),
    ]
    assert used(engine) == 1


def test_a_key_that_no_table_can_hold_is_refused_and_shown(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    declare(tenant_config())
    outcome = issuer.issue(grant_message(["acme/\0", "acme/\ud800"]))
    assert [item["code"] for item in outcome["items"]] == ["key_control", "key_invalid"]
    assert rows(engine) == [("acme/\\0", "key_control"), ("acme/\\ud800", "key_invalid")]


def test_a_message_delivered_again_is_answered_alike_and_charged_once(
    engine: Engine, declare: Declare, issuer: InProcessService, clock: Clock
) -> None:
    declare(tenant_config())
    request = grant_message(["acme/a", "acme/../b"])
    request["items"][0]["filename"] = "a.pdf"
    first = issuer.issue(request)
    clock.forward(minutes=2)
    assert issuer.issue(request) == first
    assert used(engine) == 1
    assert count(engine, Grant) == 2


def test_a_refused_batch_delivered_again_is_refused_alike(
    declare: Declare, issuer: InProcessService
) -> None:
    declare(tenant_config(Quota("grants", "hour", 1)))
    request = grant_message(["acme/a", "acme/b"])
    first = issuer.issue(request)
    declare(tenant_config(Quota("grants", "hour", 100)))
    assert issuer.issue(request)["refusal"] == first["refusal"]
    assert first["refusal"]["code"] == "quota_exceeded"


@pytest.mark.parametrize(
    "changes",
    [
        {"items": [{"key": "acme/other"}]},
        {"requested_by": "someone-else"},
        {"grant": {"kind": "download", "bucket": "demo", "expires_in": 301}},
    ],
)
def test_a_batch_id_used_again_for_something_else_is_refused(
    engine: Engine, declare: Declare, issuer: InProcessService, changes: dict[str, Any]
) -> None:
    declare(tenant_config())
    request = grant_message()
    issuer.issue(request)
    assert issuer.issue(request | changes)["refusal"]["code"] == "batch_conflict"
    assert used(engine) == 1


def test_the_first_chunk_charges_for_the_whole_batch(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    declare(tenant_config())
    first, second = chunks(["acme/a", "acme/b", "acme/c"], 2)
    issuer.issue(second)
    assert used(engine) == 3
    issuer.issue(first)
    assert used(engine) == 3


def test_items_refused_in_a_later_chunk_are_given_back(
    engine: Engine, declare: Declare, issuer: InProcessService, clock: Clock
) -> None:
    declare(tenant_config())
    first, second = chunks(["acme/a", "acme/b", "globex/c", "acme/d"], 2)
    issuer.issue(first)
    clock.forward(hours=3)
    issuer.issue(second)
    assert used(engine) == 3


def test_all_chunks_of_a_batch_over_quota_are_refused_and_none_charged(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    declare(tenant_config(Quota("grants", "hour", 3)))
    outcomes = [issuer.issue(chunk) for chunk in chunks([f"acme/{n}" for n in range(4)], 2)]
    assert [outcome["status"] for outcome in outcomes] == ["refused", "refused"]
    assert {code for _, code in rows(engine)} == {"quota_exceeded"}
    assert used(engine) == 0


def test_a_quota_starts_again_with_its_window(
    declare: Declare, issuer: InProcessService, clock: Clock
) -> None:
    declare(tenant_config(Quota("grants", "hour", 1)))
    assert issuer.issue(grant_message())["status"] == "issued"
    assert issuer.issue(grant_message())["status"] == "refused"
    clock.forward(minutes=30)
    assert issuer.issue(grant_message())["status"] == "issued"


@pytest.mark.parametrize("raw", [None, {}, {"batch": "x", "chunk": True}, {"batch": ["\0"]}])
def test_what_cannot_be_read_is_refused_and_leaves_nothing(
    engine: Engine, declare: Declare, issuer: InProcessService, raw: Any
) -> None:
    declare(tenant_config())
    assert issuer.issue(raw)["status"] == "refused"
    assert count(engine, Batch) == 0


def test_a_batch_id_is_its_tenants_own(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    known = tenant_config()
    globex = replace(
        known.tenants["acme"],
        name="globex",
        policies={"demo": replace(known.tenants["acme"].policies["demo"], prefixes=("globex/",))},
    )
    declare(TenantConfig(known.buckets, {**known.tenants, "globex": globex}))
    request = grant_message()
    first = issuer.issue(request)
    theirs = issuer.issue(request | {"tenant": "globex"})
    assert theirs["items"][0]["code"] == "key_outside_prefix"
    assert issuer.issue(request) == first
    assert count(engine, Batch) == 2


def test_grants_that_come_out_other_than_recorded_are_recorded_first(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    declare(tenant_config())
    request = grant_message()
    first = issuer.issue(request)
    moved = replace(DEMO, bucket="moved")
    declare(TenantConfig({"demo": moved}, tenant_config().tenants))
    second = issuer.issue(request)
    assert second["items"][0]["url"] != first["items"][0]["url"]
    assert count(engine, Reissue) == 1
    issuer.issue(request)
    assert count(engine, Reissue) == 1


def test_a_message_with_a_known_callback_queues_its_delivery_once(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    hook = Endpoint("hook", "https://example.com/hook", "env:HOOK")
    declare(tenant_config(endpoints={"hook": hook}))
    request = grant_message(callback="hook", batch=batch_id())
    issuer.issue(request)
    issuer.issue(request)
    assert count(engine, Delivery) == 1


def test_a_bucket_profile_that_boto3_refuses_is_refused_and_in_the_log(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    declare(TenantConfig({"demo": replace(DEMO, bucket="no bucket")}, tenant_config().tenants))
    assert issuer.issue(grant_message())["refusal"]["code"] == "bucket_unusable"
    assert rows(engine) == [("acme/a.pdf", "bucket_unusable")]


def test_a_grant_whose_bucket_profile_boto3_refuses_by_now_is_refused_and_stays_recorded(
    engine: Engine, declare: Declare, issuer: InProcessService
) -> None:
    declare(tenant_config())
    request = grant_message()
    issuer.issue(request)
    declare(TenantConfig({"demo": replace(DEMO, bucket="no bucket")}, tenant_config().tenants))
    assert issuer.issue(request)["refusal"]["code"] == "bucket_unusable"
    assert rows(engine) == [("acme/a.pdf", None)]
