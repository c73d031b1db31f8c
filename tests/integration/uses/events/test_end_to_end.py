"""Uploads to MiniStack's S3, whose notifications reach the intake through its SQS."""

from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from models import StoredObject, Use
from tests.integration.uses.events.conftest import BUCKET, reading
from tests.support.builders.services import InProcessService
from tests.support.servers.waiting import wait_until
from tests.support.uses.notifications import TestQueue
from tests.support.uses.uploading import Uploader
from worker.db.engine import read_transaction
from worker.devstack.storage import Storage


def rows(engine: Engine, *columns: Any) -> list[tuple[Any, ...]]:
    with read_transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(*columns))]


def count(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        return connection.execute(select(func.count()).select_from(Use)).scalar_one()


@pytest.fixture(autouse=True)
def notifications(storage: Storage, queue: TestQueue) -> None:
    queue.listen_to(storage, BUCKET)


def test_a_form_a_put_and_a_multipart_upload_are_recorded_once_storage_tells(
    engine: Engine, service: InProcessService, uploader: Uploader, queue: TestQueue
) -> None:
    grants = [
        uploader.form("acme/a form & more.png", content_type="image/png"),
        uploader.put("acme/put", 3, content_type="image/png"),
        uploader.multipart("acme/parts", 12, content_type="image/png"),
    ]
    for grant, body in zip(grants, (b"12345", b"123", b"123456789012"), strict=True):
        uploader.store(grant, body)
    with reading(queue, service.context):
        wait_until(lambda: count(engine) == 3, what="three uses are recorded")
        wait_until(lambda: queue.counts() == (0, 0), what="all messages are deleted")
    assert rows(engine, Use.event, Use.source, Use.verdict, Use.size, Use.content_type) == [
        ("completed", "event", "as_granted", 12, "image/png"),
        ("stored", "event", "as_granted", 3, "image/png"),
        ("stored", "event", "as_granted", 5, "image/png"),
    ]
    assert rows(engine, Use.remote_address)[0] == ("127.0.0.1",)


def test_a_deleted_object_is_no_longer_stored(
    engine: Engine,
    service: InProcessService,
    uploader: Uploader,
    queue: TestQueue,
    storage: Storage,
) -> None:
    grant = uploader.put("acme/put", 3)
    uploader.store(grant, b"123")
    with reading(queue, service.context):
        wait_until(lambda: count(engine) == 1, what="the object is recorded")
        storage.client().delete_object(Bucket=BUCKET, Key=grant.key)
        wait_until(lambda: count(engine) == 2, what="its deletion is recorded")
    assert rows(engine, StoredObject.is_deleted, StoredObject.size) == [(True, 0)]
