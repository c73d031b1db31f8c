"""Objects that storage is asked for, and deletions of which events tell."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from models import ConfigChange, StoredObject, Use
from tests.integration.conftest import ApplyConfig
from tests.integration.uses.events.batches.conftest import QUEUE, Handle, in_bucket, put_grant, rows
from tests.integration.uses.events.conftest import BUCKET, config
from tests.support.builders import services
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from tests.support.uses.notifications import aws_record, body, minio_record
from tests.support.uses.uploading import Uploader
from worker.aws.clients import S3Clients
from worker.db.engine import write_transaction
from worker.usecases.uses.intake import identify
from worker.usecases.uses.intake.message_group import RETRY_FOR


def test_a_deletion_that_arrives_before_its_object_waits_for_it(
    engine: Engine, service: InProcessService, handle: Handle, clock: Clock
) -> None:
    grant_id, now = put_grant(service), clock()
    later = now + timedelta(seconds=5)
    deleted = body(
        in_bucket(aws_record("acme/a.png", later, "ObjectRemoved:Delete", sequencer="18"))
    )
    early = handle(deleted)
    assert (early.waiting, early.handled) == ({"unknown_object": 1}, [])
    stored = body(in_bucket(minio_record("acme/a.png", now, grant_id)))
    assert handle(deleted, stored).recorded == 2
    assert rows(engine, StoredObject.is_deleted) == [(True,)]


def test_a_deletion_of_an_object_that_no_grant_stored_does_not_come_again_for_ever(
    handle: Handle, clock: Clock
) -> None:
    deleted = body(in_bucket(aws_record("acme/a.png", clock(), "ObjectRemoved:Delete")))
    batch = handle(deleted, waiting=RETRY_FOR)
    assert (len(batch.handled), batch.ignored) == (1, {"unknown_object": 1})


def test_the_time_in_which_the_service_was_unable_to_try_counts_for_no_message(
    handle: Handle, clock: Clock
) -> None:
    deleted = body(in_bucket(aws_record("acme/a.png", clock(), "ObjectRemoved:Delete")))
    hours = RETRY_FOR * 100
    assert handle(deleted, waiting=hours, away=hours).waiting == {"unknown_object": 1}
    assert handle(deleted, waiting=hours, away=hours - RETRY_FOR).waiting == {}
    days = timedelta(days=2)
    assert handle(deleted, waiting=days, away=days).waiting == {}


def test_storage_that_answers_slowly_is_asked_for_the_other_objects_later(
    uploader: Uploader, handle: Handle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploader.store(uploader.put("acme/put", 10), b"0123456789")
    told = aws_record("acme/put", clock())
    told["s3"]["object"].pop("eTag")
    monkeypatch.setattr(identify, "ASK_SECONDS", 0.0)
    late = handle(body(in_bucket(told)))
    assert (late.recorded, late.handled, late.waiting) == (0, [], {"postponed": 1})
    monkeypatch.undo()
    assert handle(body(in_bucket(told))).recorded == 1


def test_a_deletion_of_an_earlier_object_or_of_another_version_leaves_the_newest(
    engine: Engine, service: InProcessService, handle: Handle, clock: Clock
) -> None:
    stored = minio_record("acme/a.png", clock(), put_grant(service), versionId="V2")
    handle(body(in_bucket(stored)))
    event, later = "ObjectRemoved:Delete", clock() + timedelta(minutes=1)
    earlier = aws_record("acme/a.png", clock() - timedelta(seconds=1), event)
    version = aws_record("acme/a.png", later, event, versionId="V1")
    batch = handle(body(in_bucket(earlier), in_bucket(version)))
    assert batch.ignored == {"other_object": 2}
    assert rows(engine, StoredObject.is_deleted, StoredObject.version) == [(False, "V2")]
    marker = aws_record("acme/a.png", later, "ObjectRemoved:DeleteMarkerCreated", versionId="M1")
    assert handle(body(in_bucket(marker))).recorded == 1
    assert rows(engine, StoredObject.is_deleted) == [(True,)]


def test_the_object_of_an_event_that_names_no_grant_is_asked_for(
    engine: Engine, uploader: Uploader, handle: Handle, clock: Clock, owner: Any
) -> None:
    grant = uploader.put("acme/put", 10, content_type="image/png")
    uploader.store(grant, b"0123456789")
    etag = owner.head_object(Bucket=BUCKET, Key="acme/put")["ETag"].strip('"')
    assert handle(body(in_bucket(aws_record("acme/put", clock(), eTag=etag)))).recorded == 1
    assert rows(engine, Use.event, Use.content_type, Use.etag) == [("stored", "image/png", etag)]


def test_an_object_in_a_former_bucket_of_the_profile_is_asked_for(
    engine: Engine, uploader: Uploader, handle: Handle, clock: Clock, apply_config: ApplyConfig
) -> None:
    uploader.store(uploader.put("acme/put", 10), b"0123456789")
    change: dict[str, Any] = {"path": "buckets.demo.bucket", "before": BUCKET, "after": "moved"}
    change |= {"changed_at": clock(), "changed_by": "ann", "command": "apply"}
    with write_transaction(engine) as connection:
        connection.execute(insert(ConfigChange), change)
    apply_config(config(QUEUE, bucket="moved"))
    told = aws_record("acme/put", clock())
    told["s3"]["object"].pop("eTag")
    assert handle(body(in_bucket(told))).recorded == 1


def test_an_object_that_is_gone_replaced_or_of_no_grant_is_explained_and_not_asked_for_again(
    uploader: Uploader, handle: Handle, clock: Clock, owner: Any
) -> None:
    uploader.store(uploader.put("acme/replaced", 10), b"0123456789")
    owner.put_object(Bucket=BUCKET, Key="acme/foreign", Body=b"x")
    etag = owner.head_object(Bucket=BUCKET, Key="acme/foreign")["ETag"].strip('"')
    records = [
        aws_record("acme/gone", clock()),
        aws_record("acme/replaced", clock()),
        aws_record("acme/foreign", clock(), eTag=etag),
    ]
    batch = handle(*(body(in_bucket(record)) for record in records))
    assert batch.ignored == {"gone": 1, "replaced": 1, "no_grant_id": 1}
    assert (len(batch.handled), batch.waiting) == (3, {})


def test_in_a_versioned_bucket_the_version_of_the_event_is_asked_for(
    engine: Engine,
    uploader: Uploader,
    handle: Handle,
    clock: Clock,
    owner: Any,
    apply_config: ApplyConfig,
) -> None:
    bucket = f"events-{uuid.uuid4().hex}"
    apply_config(config(QUEUE, bucket=bucket))
    owner.create_bucket(Bucket=bucket)
    versioning = {"Status": "Enabled"}
    owner.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=versioning)
    for text in (b"0123456789", b"9876543210"):
        uploader.store(uploader.put("acme/put", 10), text)
    listed = owner.list_object_versions(Bucket=bucket)["Versions"]
    records = [
        aws_record("acme/put", clock(), eTag=v["ETag"].strip('"'), versionId=v["VersionId"])
        for v in listed
    ]
    batch = handle(*(body(in_bucket(record, bucket)) for record in records))
    assert (batch.recorded, batch.ignored) == (2, {})
    versions = sorted((v["VersionId"],) for v in listed)
    assert rows(engine, Use.version) == versions


def test_events_wait_while_storage_is_away_and_hold_up_no_others(
    engine: Engine, service: InProcessService, uploader: Uploader, handle: Handle, clock: Clock
) -> None:
    uploader.store(uploader.put("acme/put", 10), b"0123456789")
    unnamed = body(in_bucket(aws_record("acme/put", clock())))
    named = body(in_bucket(minio_record("acme/a.png", clock(), put_grant(service))))
    away = services.build_context(engine, S3Clients("http://127.0.0.1:9"), clock)
    batch = handle(unnamed, named, waiting=timedelta(days=3), context=away)
    assert (batch.recorded, batch.waiting) == (1, {"storage_away": 1})
    assert [message.body for message in batch.handled] == [named]
    assert batch.problem is not None
