"""The claims about objects in storage, of the real service with real storage and of the fake."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.testing.conftest import FAKES, real_service
from tests.support.builders.messages import batch_id
from tests.support.s3.http_requests import put, send
from valetkey import Client, Grant, NotStored
from valetkey.testing import FakeClient
from worker import clock
from worker.dev.embedded_servers import Storage, create_buckets

Store = Callable[[Grant, bytes], None]


@pytest.fixture(params=["service", "fake"])
def storing(
    request: pytest.FixtureRequest,
    broker: str,
    seaweed: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Any, Store]]:
    """A client, and a function that stores an object with a PUT, as its user would."""
    if request.param == "fake":
        with FakeClient(**FAKES) as fake:
            yield fake, lambda grant, body: fake.store(grant.key, len(body))
        return
    owner = seaweed.client()
    create_buckets(owner, {"demo"})
    owner.close()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    with (
        real_service(broker, tmp_path, clock.now, seaweed.endpoint),
        Client(broker, tenant="acme", requested_by="test") as client,
    ):
        yield client, _upload


def _upload(grant: Grant, body: bytes) -> None:
    assert send(put(grant, body)).is_success


def test_a_stored_object_is_told_with_its_size(storing: tuple[Any, Store]) -> None:
    client, store = storing
    handle = client.put("demo", f"acme/{batch_id()}", size=5)
    grant = handle.result(10)
    with pytest.raises(NotStored) as caught:
        handle.stored(timeout=0.1)
    assert caught.value.use.state == "open"
    store(grant, b"hello")
    stored = handle.stored(timeout=20)
    assert (stored.key, stored.size, stored.grant) == (grant.key, 5, grant.id)
    assert stored.etag is not None
    assert stored.version is None
    states = client.status(handle)
    assert (states.state, states.items[0].uses) == ("used", 1)
    assert client.status(handle.batch).counts == {"used": 1}


def test_an_upload_in_parts_has_a_plan_and_a_url_for_each_part(storing: tuple[Any, Store]) -> None:
    client, _ = storing
    mebibyte = 1024**2
    options = {"size": 900_000, "part_size": 5 * mebibyte, "expires_in": 600}
    upload = client.multipart("demo", f"acme/{batch_id()}", **options)
    grant = upload.result(10)
    plan = grant.multipart
    assert (grant.method, plan.part_size, plan.part_count) == ("POST", 5 * mebibyte, 1)
    assert f"x-grant-id={grant.id}" in grant.url
    assert plan.abort_url != grant.url
    (part,) = upload.parts()
    assert (part.method, part.part, part.key) == ("PUT", 1, grant.key)
    assert part.headers == {"content-length": "900000"}
    assert (part.expires_at, part.limited_by) == (grant.expires_at, "provider")
    assert client.cancel(upload, abort_uploads=True).aborting == 1
    assert [each.code for each in upload.parts()] == ["upload_unknown"]
