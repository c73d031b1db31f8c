"""Events that are foreign, forged, late or told twice; objects that storage is asked for."""

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from models import StoredObject, Use
from tests.integration.uses.events.conftest import BUCKET, KEY, Intake, config, in_bucket
from tests.support.builders.messages import POLICY, tenant_config
from tests.support.uses.notifications import aws_record, body, ceph_record, minio_record
from worker.rules.tenant_config import TenantConfig
from worker.uses.events import event_messages
from worker.uses.events.event_messages import RETRY_FOR

QUEUE = "http://127.0.0.1:9/000000000000/events"
TEN = b"0123456789"


@pytest.fixture
def queue_url() -> str:
    """A queue that only the config names: messages are handed over."""
    return QUEUE


def with_profile(*, queue_of_demo: str = QUEUE, **changes: Any) -> TenantConfig:
    """Return a config with a second profile that names the queue, and differs in these fields."""
    demo = config(queue_of_demo).buckets["demo"]
    other = replace(demo, name="other", events_queue=QUEUE, **changes)
    policies = {name: replace(POLICY, bucket=name, overwrite=True) for name in ("demo", "other")}
    return TenantConfig({"demo": demo, "other": other}, tenant_config(policies=policies).tenants)


@pytest.mark.parametrize("record", [minio_record, ceph_record])
def test_a_record_with_the_grant_id_is_recorded_without_asking_storage(
    intake: Intake, record: Any
) -> None:
    key = "acme/a+b c.png"
    told = in_bucket(record(key, intake.clock(), intake.put_grant(key)))
    batch = intake.handle(told, storage_is_away=True)
    assert (batch.recorded, len(batch.handled)) == (1, 1)
    columns = (Use.event, Use.verdict, Use.etag)
    assert intake.rows(*columns) == [("stored", "as_granted", "0123456789abcdef")]


def test_events_that_are_no_uses_are_counted_by_reason_and_handled(intake: Intake) -> None:
    grant_id, now = intake.put_grant(), intake.clock()
    records = [
        in_bucket(minio_record(KEY, now, grant_id), "another-bucket"),
        intake.stored(grant_id, "acme/copy.png"),  # forged metadata
        intake.stored(grant_id.replace(".0", ".7")),
        intake.stored("nonsense"),
        intake.stored(None),
        in_bucket(minio_record(KEY, now - timedelta(days=7), grant_id)),
        intake.unnamed("umbrella/a.png"),
        intake.deleted("umbrella/a.png"),
        in_bucket(aws_record(KEY, now, "ObjectCreated:Copy")),
    ]
    batch = intake.handle(*records, "nonsense", body(*records) * 1_000)
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
    assert intake.rows(Use.item_number) == []


def test_an_event_that_arrives_a_week_late_is_judged_by_its_own_time(intake: Intake) -> None:
    told = intake.stored(intake.put_grant())
    intake.clock.forward(days=7)
    assert intake.handle(told).recorded == 1
    assert intake.rows(Use.verdict) == [("as_granted",)]


def test_a_grant_of_a_removed_tenant_is_not_used_by_its_successor(intake: Intake) -> None:
    told = intake.stored(intake.put_grant())
    current = config(QUEUE)
    intake.apply(TenantConfig(current.buckets))
    intake.apply(current)
    assert intake.handle(told).recorded == 1
    assert intake.rows(Use.tenant) == [("acme",)]
    assert intake.context.config.current().tenants["acme"].id == "acme~2"


def test_events_of_a_bucket_to_which_the_profile_led_before_are_believed(intake: Intake) -> None:
    grant = intake.put(KEY)
    intake.store(grant, TEN)
    intake.log_change("buckets.demo.bucket", BUCKET)
    intake.apply(config(QUEUE, bucket="moved"))
    assert intake.handle(intake.unnamed(KEY, eTag=None)).recorded == 1


def test_a_queue_that_another_profile_names_cannot_tell_of_this_bucket(intake: Intake) -> None:
    told = intake.stored(intake.put_grant())
    intake.apply(with_profile(queue_of_demo=f"{QUEUE}-2", bucket="another-bucket"))
    batch = intake.handle(told)
    assert (batch.recorded, batch.ignored) == (0, {"other_bucket": 1})
    intake.apply(config(QUEUE))
    assert intake.handle(told).recorded == 1


def test_a_queue_of_another_server_cannot_tell_of_an_equal_bucket(intake: Intake) -> None:
    intake.handle(intake.stored(intake.put_grant()))
    intake.apply(with_profile(queue_of_demo=f"{QUEUE}-2", endpoint="https://other.test"))
    assert intake.handle(intake.deleted(seconds=5)).recorded == 0
    assert intake.rows(StoredObject.is_deleted) == [(False,)]


def test_a_deletion_that_may_be_of_either_server_deletes_nothing(intake: Intake) -> None:
    intake.apply(with_profile(endpoint="https://other.test"))
    for bucket in ("demo", "other"):
        assert intake.handle(intake.stored(intake.put_grant(bucket=bucket))).recorded == 1
    assert intake.handle(intake.deleted(seconds=5)).ignored == {"ambiguous_bucket": 1}
    assert intake.rows(StoredObject.bucket, StoredObject.is_deleted) == [
        ("events", False),
        ("other.test/events", False),
    ]


def test_a_deletion_counts_after_the_prefix_was_taken_from_the_tenant(intake: Intake) -> None:
    intake.handle(intake.stored(intake.put_grant()))
    intake.apply(TenantConfig(config(QUEUE).buckets, {}))
    unknown = intake.deleted("acme/b.png", seconds=5)
    batch = intake.handle(intake.deleted(seconds=5), unknown)
    assert (batch.recorded, batch.ignored) == (1, {"other_prefix": 1})
    assert intake.rows(StoredObject.is_deleted) == [(True,)]


def test_a_deletion_that_arrives_before_its_object_waits_for_it(intake: Intake) -> None:
    grant_id = intake.put_grant()
    deleted = intake.deleted(seconds=5, sequencer="18")
    early = intake.handle(deleted)
    assert (early.waiting, early.handled) == ({"unknown_object": 1}, [])
    assert intake.handle(deleted, intake.stored(grant_id)).recorded == 2
    assert intake.rows(StoredObject.is_deleted) == [(True,)]


def test_a_deletion_of_an_unknown_object_does_not_come_again_for_ever(intake: Intake) -> None:
    batch = intake.handle(intake.deleted(), waiting=RETRY_FOR)
    assert (len(batch.handled), batch.ignored) == (1, {"unknown_object": 1})


def test_the_time_in_which_the_service_was_away_counts_for_no_message(intake: Intake) -> None:
    deleted, hours, days = intake.deleted(), RETRY_FOR * 100, timedelta(days=2)
    assert intake.handle(deleted, waiting=hours, away=hours).waiting == {"unknown_object": 1}
    assert intake.handle(deleted, waiting=hours, away=hours - RETRY_FOR).waiting == {}
    assert intake.handle(deleted, waiting=days, away=days).waiting == {}


def test_a_deletion_of_an_earlier_object_or_version_leaves_the_newest(intake: Intake) -> None:
    intake.handle(intake.stored(intake.put_grant(), versionId="V2"))
    batch = intake.handle(intake.deleted(seconds=-1), intake.deleted(seconds=60, versionId="V1"))
    assert batch.ignored == {"other_object": 2}
    assert intake.rows(StoredObject.is_deleted, StoredObject.version) == [(False, "V2")]
    later, event = intake.clock() + timedelta(minutes=1), "ObjectRemoved:DeleteMarkerCreated"
    marker = in_bucket(aws_record(KEY, later, event, versionId="M1"))
    assert intake.handle(marker).recorded == 1
    assert intake.rows(StoredObject.is_deleted) == [(True,)]


def test_storage_that_answers_slowly_is_asked_for_the_other_objects_later(
    intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake.store(intake.put("acme/put"), TEN)
    told = intake.unnamed("acme/put", eTag=None)
    monkeypatch.setattr(event_messages, "ASK_SECONDS", 0.0)
    late = intake.handle(told)
    assert (late.recorded, late.handled, late.waiting) == (0, [], {"postponed": 1})
    monkeypatch.undo()
    assert intake.handle(told).recorded == 1


def test_the_object_of_an_event_that_names_no_grant_is_asked_for(intake: Intake) -> None:
    intake.store(intake.put("acme/put", content_type="image/png"), TEN)
    etag = intake.owner.head_object(Bucket=BUCKET, Key="acme/put")["ETag"].strip('"')
    assert intake.handle(intake.unnamed("acme/put", eTag=etag)).recorded == 1
    assert intake.rows(Use.event, Use.content_type, Use.etag) == [("stored", "image/png", etag)]


def test_an_object_that_is_gone_replaced_or_of_no_grant_is_explained(intake: Intake) -> None:
    intake.store(intake.put("acme/replaced"), TEN)
    intake.owner.put_object(Bucket=BUCKET, Key="acme/foreign", Body=b"x")
    etag = intake.owner.head_object(Bucket=BUCKET, Key="acme/foreign")["ETag"].strip('"')
    gone, replaced = intake.unnamed("acme/gone"), intake.unnamed("acme/replaced")
    batch = intake.handle(gone, replaced, intake.unnamed("acme/foreign", eTag=etag))
    assert batch.ignored == {"gone": 1, "replaced": 1, "no_grant_id": 1}
    assert (len(batch.handled), batch.waiting) == (3, {})


def test_in_a_versioned_bucket_the_version_of_the_event_is_asked_for(intake: Intake) -> None:
    bucket, owner = f"events-{uuid.uuid4().hex}", intake.owner
    intake.apply(config(QUEUE, bucket=bucket))
    owner.create_bucket(Bucket=bucket)
    owner.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for content in (TEN, b"9876543210"):
        intake.store(intake.put("acme/put"), content)
    versions = owner.list_object_versions(Bucket=bucket)["Versions"]
    records = [
        intake.unnamed("acme/put", eTag=each["ETag"].strip('"'), versionId=each["VersionId"])
        for each in versions
    ]
    batch = intake.handle(*(in_bucket(record, bucket) for record in records))
    assert (batch.recorded, batch.ignored) == (2, {})
    assert intake.rows(Use.version) == sorted((each["VersionId"],) for each in versions)


def test_events_wait_while_storage_is_away_and_hold_up_no_others(intake: Intake) -> None:
    intake.store(intake.put("acme/put"), TEN)
    named = intake.stored(intake.put_grant())
    unnamed, waiting = intake.unnamed("acme/put"), timedelta(days=3)
    batch = intake.handle(unnamed, named, waiting=waiting, storage_is_away=True)
    assert (batch.recorded, batch.waiting) == (1, {"storage_away": 1})
    assert [message.body for message in batch.handled] == [body(named)]
    assert batch.problem is not None
