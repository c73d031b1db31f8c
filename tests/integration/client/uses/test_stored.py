"""A program waits until storage has the object of a grant, of the real service."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest

from tests.integration.client.uses.conftest import BUCKET
from tests.support.builders.messages import batch_id
from tests.support.fakes.fake_service import FakeService
from tests.support.s3.http_requests import Request, post, put, send
from tests.support.servers.waiting import wait_until
from valetkey import Client, Grant, Item, NotStored, StorageError


def new_key() -> str:
    return f"acme/{batch_id()}.bin"


def asks(worker: FakeService) -> int:
    return sum(message.get("ask") == "status" for _, message in worker.received)


def store(grant: Grant, body: bytes) -> None:
    if grant.method == "PUT":
        assert send(put(grant, body)).is_success
    else:
        form = post(grant, body)
        assert send(Request("POST", form.url, form=form.form)).is_success


@contextmanager
def stored_meanwhile(worker: FakeService, grant: Grant, body: bytes) -> Iterator[None]:
    """Store the object once somebody has asked for it in vain."""

    def run() -> None:
        wait_until(lambda: asks(worker) >= 2)
        store(grant, body)

    thread = Thread(target=run)
    thread.start()
    yield
    thread.join()


def test_a_program_waits_until_a_form_has_stored_its_object(
    keyed: Client, worker: FakeService, owner: Any
) -> None:
    handle = keyed.upload("demo", new_key(), max_size=100)
    grant = handle.result()
    with stored_meanwhile(worker, grant, b"hello"):
        stored = handle.stored(timeout=30)
    head = owner.head_object(Bucket=BUCKET, Key=grant.key)
    assert (stored.key, stored.size, stored.grant) == (grant.key, 5, grant.id)
    assert stored.etag == head["ETag"].strip('"')
    assert stored.version is None
    assert stored.stored_at == head["LastModified"]
    assert "acme" in repr(stored)


def test_another_process_waits_for_an_item_of_a_batch(keyed: Client) -> None:
    batch = keyed.put_many("demo", [Item(key=new_key(), size=3) for _ in range(3)])
    grants = [result for result in batch if isinstance(result, Grant)]
    store(grants[2], b"abc")
    other = keyed.batch(batch.id)
    assert other.stored(2, timeout=30).key == grants[2].key
    with pytest.raises(ValueError, match="the batch has 3 items"):
        other.stored(3)
    assert keyed.status(batch).counts == {"open": 2, "used": 1}
    assert keyed.status(grants[2]).state == "used"
    assert keyed.status(f"{batch.id}.1").state == "open"


def test_a_wait_that_is_over_can_be_continued(keyed: Client) -> None:
    handle = keyed.put("demo", new_key(), size=3)
    handle.result()
    with pytest.raises(NotStored, match="is not known to be stored yet: call again") as over:
        handle.stored(timeout=0.3)
    assert isinstance(over.value, StorageError)
    assert over.value.use.state == "open"
    store(handle.result(), b"abc")
    assert handle.stored(timeout=30).size == 3
