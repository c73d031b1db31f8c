"""The messages of one batch, handed over as SQS would: foreign, forged, early, late and twice."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select

from models import ConfigChange, StoredObject, Use
from tests.integration.conftest import ApplyConfig
from tests.integration.uses.events.conftest import BUCKET, config
from tests.support.builders import services
from tests.support.builders.messages import Clock, put_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.uses.notifications import TestQueue, aws_record, body, ceph_record, minio_record
from tests.support.uses.uploading import Uploader
from worker.aws.clients import S3Clients
from worker.aws.event_queues import QueueMessage
from worker.core.tenants.config import TenantConfig
from worker.db.engine import read_transaction, write_transaction
from worker.devstack.storage import Storage
from worker.usecases.uses.intake.batch import MAX_RECEIVES, HandledBatch, handle_messages
from worker.usecases.uses.intake.targets import queue_targets

Handle = Callable[..., HandledBatch]
QUEUE = "http://127.0.0.1:9/000000000000/events"


@pytest.fixture(scope="module")
def queue() -> TestQueue:
    """A queue that only the config names: messages are handed over."""
    queue = TestQueue.__new__(TestQueue)
    queue.url = QUEUE
    return queue


@pytest.fixture
def handle(service: InProcessService) -> Iterator[Handle]:
    with ThreadPoolExecutor(4) as threads:

        def run(*bodies: str, receives: int = 1, context: Any = service.context) -> HandledBatch:
            messages = [QueueMessage(str(n), "", text, receives) for n, text in enumerate(bodies)]
            targets = queue_targets(QUEUE, context.config.current(), context)
            return handle_messages(messages, targets, context, threads)

        yield run


@pytest.fixture(scope="module")
def owner(storage: Storage) -> Iterator[Any]:
    """A boto3 client of the bucket's owner."""
    client = storage.client()
    yield client
    client.close()


def in_bucket(record: Any, bucket: str = BUCKET) -> Any:
    record["s3"]["bucket"]["name"] = bucket
    return record


def rows(engine: Engine, *columns: Any) -> list[tuple[Any, ...]]:
    with read_transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(*columns))]


def put_grant(service: InProcessService, key: str = "acme/a.png") -> str:
    """Return the id of a grant to put 10 bytes."""
    outcome = service.issue(put_message({key: 10}, overwrite=True))
    grant_id: str = outcome["items"][0]["id"]
    return grant_id


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
    assert rows(engine, Use.use_number) == []


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
    assert handle(deleted, stored, receives=2).recorded == 2
    assert rows(engine, StoredObject.is_deleted) == [(True,)]


def test_a_deletion_of_an_object_that_no_grant_stored_does_not_come_again_for_ever(
    handle: Handle, clock: Clock
) -> None:
    deleted = body(in_bucket(aws_record("acme/a.png", clock(), "ObjectRemoved:Delete")))
    batch = handle(deleted, receives=MAX_RECEIVES)
    assert (len(batch.handled), batch.ignored) == (1, {"unknown_object": 1})


def test_a_deletion_of_an_earlier_object_or_of_another_version_leaves_the_newest(
    engine: Engine, service: InProcessService, handle: Handle, clock: Clock
) -> None:
    stored = minio_record("acme/a.png", clock(), put_grant(service), versionId="V2")
    handle(body(in_bucket(stored)))
    event, later = "ObjectRemoved:Delete", clock() + timedelta(days=1)
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
    apply_config(config(QUEUE, bucket="events-versioned"))
    owner.create_bucket(Bucket="events-versioned")
    versioning = {"Status": "Enabled"}
    owner.put_bucket_versioning(Bucket="events-versioned", VersioningConfiguration=versioning)
    for text in (b"0123456789", b"9876543210"):
        uploader.store(uploader.put("acme/put", 10), text)
    listed = owner.list_object_versions(Bucket="events-versioned")["Versions"]
    records = [
        aws_record("acme/put", clock(), eTag=v["ETag"].strip('"'), versionId=v["VersionId"])
        for v in listed
    ]
    batch = handle(*(body(in_bucket(record, "events-versioned")) for record in records))
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
    batch = handle(unnamed, named, receives=99, context=away)
    assert (batch.recorded, batch.waiting) == (1, {"storage_away": 1})
    assert [message.body for message in batch.handled] == [named]
    assert batch.problem is not None


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
    grant_id = put_grant(service)
    other = replace(config(QUEUE).buckets["demo"], name="other", bucket="another-bucket")
    mine = replace(config(QUEUE).buckets["demo"], events_queue=f"{QUEUE}-2")
    apply_config(TenantConfig({"demo": mine, "other": other}, tenant_config().tenants))
    batch = handle(body(in_bucket(minio_record("acme/a.png", clock(), grant_id))))
    assert (batch.recorded, batch.ignored) == (0, {"other_bucket": 1})
