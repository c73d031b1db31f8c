"""Events that are foreign, forged, late or told twice."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from models import ConfigChange, StoredObject, Use
from tests.integration.conftest import ApplyConfig
from tests.integration.uses.events.batches.conftest import QUEUE, Handle, in_bucket, put_grant, rows
from tests.integration.uses.events.conftest import BUCKET, config
from tests.support.builders import services
from tests.support.builders.messages import POLICY, Clock, put_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.uses.notifications import aws_record, body, ceph_record, minio_record
from worker.aws.clients import S3Clients
from worker.core.tenants.config import TenantConfig
from worker.db.engine import write_transaction


@pytest.mark.parametrize("record", [minio_record, ceph_record])
def test_a_record_with_the_grant_id_is_recorded_without_asking_storage(
    engine: Engine, service: InProcessService, handle: Handle, clock: Clock, record: Any
) -> None:
    grant_id = put_grant(service, "acme/a+b c.png")
    away = services.build_context(engine, S3Clients("http://127.0.0.1:9"), clock)
    text = body(in_bucket(record("acme/a+b c.png", clock(), grant_id)))
    batch = handle(text, context=away)
    assert (batch.recorded, len(batch.handled)) == (1, 1)
    assert rows(engine, Use.event, Use.verdict, Use.etag) == [
        ("stored", "as_granted", "0123456789abcdef")
    ]


def test_an_event_that_is_told_twice_is_recorded_once(
    service: InProcessService, handle: Handle, clock: Clock
) -> None:
    text = body(in_bucket(minio_record("acme/a.png", clock(), put_grant(service))))
    assert handle(text, text).recorded == 1
    again = handle(text)
    assert (again.recorded, again.ignored, len(again.handled)) == (0, {"known": 1}, 1)


def test_events_that_are_no_uses_are_counted_by_reason_and_handled(
    engine: Engine, service: InProcessService, handle: Handle, clock: Clock
) -> None:
    grant_id, now = put_grant(service), clock()
    unknown = grant_id.replace(".0", ".7")
    records = [
        in_bucket(minio_record("acme/a.png", now, grant_id), "another-bucket"),
        in_bucket(minio_record("acme/copy.png", now, grant_id)),  # forged metadata
        in_bucket(minio_record("acme/a.png", now, unknown)),
        in_bucket(minio_record("acme/a.png", now, "nonsense")),
        in_bucket(minio_record("acme/a.png", now, None)),
        in_bucket(minio_record("acme/a.png", now - timedelta(days=7), grant_id)),
        in_bucket(aws_record("umbrella/a.png", now)),
        in_bucket(aws_record("umbrella/a.png", now, "ObjectRemoved:Delete")),
        in_bucket(aws_record("acme/a.png", now, "ObjectCreated:Copy")),
    ]
    batch = handle(*map(body, records), "nonsense", body(*records) * 1_000)
    assert batch.ignored == {
        "other_bucket": 1,
        "other_key": 1,
        "unknown_grant": 2,
        "no_grant_id": 1,
        "before_issue": 1,
        "other_prefix": 2,
        "copy": 1,
        "malformed": 1,
        "too_large": 1,
    }
    assert (batch.recorded, len(batch.handled), batch.waiting) == (0, 11, {})
    assert rows(engine, Use.item_number) == []


def test_an_event_that_arrives_a_week_late_is_judged_by_its_own_time(
    engine: Engine, service: InProcessService, handle: Handle, clock: Clock
) -> None:
    text = body(in_bucket(minio_record("acme/a.png", clock(), put_grant(service))))
    clock.forward(days=7)
    assert handle(text).recorded == 1
    assert rows(engine, Use.verdict) == [("as_granted",)]


def test_a_grant_of_a_removed_tenant_is_not_used_by_its_successor(
    engine: Engine, service: InProcessService, handle: Handle, clock: Clock, apply_config: Any
) -> None:
    text = body(in_bucket(minio_record("acme/a.png", clock(), put_grant(service))))
    current = config(QUEUE)
    apply_config(TenantConfig(current.buckets))
    apply_config(current)
    assert handle(text).recorded == 1
    assert rows(engine, Use.tenant) == [("acme",)]
    assert current.tenants["acme"].id == "acme"
    assert service.context.config.current().tenants["acme"].id == "acme~2"


def test_events_of_a_bucket_to_which_the_profile_led_before_are_believed(
    engine: Engine,
    service: InProcessService,
    handle: Handle,
    clock: Clock,
    apply_config: ApplyConfig,
) -> None:
    grant_id = put_grant(service)
    change: dict[str, Any] = {
        "path": "buckets.demo.bucket",
        "before": BUCKET,
        "after": "events-moved",
    }
    change |= {"changed_at": clock(), "changed_by": "ann", "command": "apply"}
    with write_transaction(engine) as connection:
        connection.execute(insert(ConfigChange), change)
    apply_config(config(QUEUE, bucket="events-moved"))
    assert handle(body(in_bucket(minio_record("acme/a.png", clock(), grant_id)))).recorded == 1


def test_a_queue_that_another_profile_names_cannot_tell_of_this_bucket(
    service: InProcessService, handle: Handle, clock: Clock, apply_config: ApplyConfig
) -> None:
    told = body(in_bucket(minio_record("acme/a.png", clock(), put_grant(service))))
    other = replace(config(QUEUE).buckets["demo"], name="other", bucket="another-bucket")
    mine = replace(config(QUEUE).buckets["demo"], events_queue=f"{QUEUE}-2")
    apply_config(TenantConfig({"demo": mine, "other": other}, tenant_config().tenants))
    batch = handle(told)
    assert (batch.recorded, batch.ignored) == (0, {"other_bucket": 1})
    apply_config(config(QUEUE))
    assert handle(told).recorded == 1


def test_a_queue_of_another_server_cannot_tell_of_a_bucket_of_the_same_name(
    engine: Engine,
    service: InProcessService,
    handle: Handle,
    clock: Clock,
    apply_config: ApplyConfig,
) -> None:
    told = minio_record("acme/a.png", clock(), put_grant(service))
    handle(body(in_bucket(told)))
    later = clock() + timedelta(seconds=5)
    deleted = body(in_bucket(aws_record("acme/a.png", later, "ObjectRemoved:Delete")))
    other = replace(config(QUEUE).buckets["demo"], name="other", endpoint="https://other.test")
    mine = replace(config(QUEUE).buckets["demo"], events_queue=f"{QUEUE}-2")
    apply_config(TenantConfig({"demo": mine, "other": other}, tenant_config().tenants))
    assert handle(deleted).recorded == 0
    assert rows(engine, StoredObject.is_deleted) == [(False,)]


def test_a_deletion_that_may_be_of_either_server_of_a_queue_deletes_nothing(
    engine: Engine,
    service: InProcessService,
    handle: Handle,
    clock: Clock,
    apply_config: ApplyConfig,
) -> None:
    mine = config(QUEUE).buckets["demo"]
    other = replace(mine, name="other", endpoint="https://other.test")
    policies = {name: replace(POLICY, bucket=name, overwrite=True) for name in ("demo", "other")}
    tenants = tenant_config(policies=policies).tenants
    apply_config(TenantConfig({"demo": mine, "other": other}, tenants))
    told = minio_record("acme/a.png", clock(), put_grant(service))
    assert handle(body(in_bucket(told))).recorded == 1
    there = service.issue(put_message({"acme/a.png": 10}, bucket="other", overwrite=True))
    told = minio_record("acme/a.png", clock(), there["items"][0]["id"])
    assert handle(body(in_bucket(told))).recorded == 1
    later = clock() + timedelta(seconds=5)
    deleted = body(in_bucket(aws_record("acme/a.png", later, "ObjectRemoved:Delete")))
    assert handle(deleted).ignored == {"ambiguous_bucket": 1}
    assert rows(engine, StoredObject.bucket, StoredObject.is_deleted) == [
        ("events", False),
        ("other.test/events", False),
    ]


def test_a_deletion_counts_after_the_prefix_was_taken_from_the_tenant(
    engine: Engine,
    service: InProcessService,
    handle: Handle,
    clock: Clock,
    apply_config: ApplyConfig,
) -> None:
    told = minio_record("acme/a.png", clock(), put_grant(service))
    handle(body(in_bucket(told)))
    apply_config(TenantConfig(config(QUEUE).buckets, {}))
    later = clock() + timedelta(seconds=5)
    deleted, unknown = (
        body(in_bucket(aws_record(key, later, "ObjectRemoved:Delete")))
        for key in ("acme/a.png", "acme/b.png")
    )
    batch = handle(deleted, unknown)
    assert (batch.recorded, batch.ignored) == (1, {"other_prefix": 1})
    assert rows(engine, StoredObject.is_deleted) == [(True,)]
