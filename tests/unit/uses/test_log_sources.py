"""Logs in a bucket whose storage answers nonsense."""

from collections.abc import Callable
from io import BytesIO
from typing import Any, cast

import pytest
from botocore.exceptions import ReadTimeoutError

from tests.support.builders.messages import tenant_config
from worker.context import Context
from worker.errors import Malformed, StorageSilent
from worker.rules.tenant_config import Bucket
from worker.uses.log_imports import LogObject, find_log_objects

BUCKET = Bucket("logs", "logs", "us-east-1", "path")
MEBIBYTE = 2**20


class Storage:
    """A client, whose object is body, and whose listing is pages."""

    def __init__(self, body: Any = None, pages: Callable[..., dict[str, Any]] = dict) -> None:
        self._body = body
        self.list_objects_v2 = pages

    def get_object(self, **_: object) -> dict[str, Any]:
        return {"Body": self._body}


class Endless(BytesIO):
    """A body that has as many bytes as are read, at most an object's."""

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert 0 < size <= 2 * MEBIBYTE, "the read is not bounded"
        return b"x" * size


class Silent(BytesIO):
    def read(self, _size: int | None = -1, /) -> bytes:
        raise ReadTimeoutError(endpoint_url="")


def read(body: BytesIO, size: int = 10 * MEBIBYTE) -> bytes:
    with LogObject(Storage(body), BUCKET, "key", "etag", size).open() as stream:
        return stream.read(100)


def test_a_range_is_read() -> None:
    assert read(BytesIO(b"abc"), 3) == b"abc"


def test_a_log_is_read_range_by_range_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [BytesIO(b"x" * MEBIBYTE) for _ in range(10)]
    storage = Storage()
    monkeypatch.setattr(storage, "get_object", lambda **_: {"Body": bodies.pop()})
    with LogObject(storage, BUCKET, "key", "etag", 10 * MEBIBYTE).open() as stream:
        stream.seek(5 * MEBIBYTE)
        assert stream.read(100) == b"x" * 100
        assert len(bodies) == 9


@pytest.mark.parametrize("body", [Endless(), BytesIO(b"short"), BytesIO()])
def test_another_range_than_the_one_that_was_asked_for_is_refused(body: BytesIO) -> None:
    with pytest.raises(Malformed, match="s3://logs/key: storage sends another range"):
        read(body)


def test_a_body_that_stops_may_be_read_later() -> None:
    with pytest.raises(StorageSilent):
        read(Silent())


@pytest.mark.parametrize("token", [{"NextContinuationToken": "again"}, {}])
def test_a_listing_that_repeats_itself_ends(token: dict[str, str]) -> None:
    storage = Storage(pages=lambda **_: {"IsTruncated": True, "Contents": [{}]} | token)
    with pytest.raises(Malformed, match="storage lists the same logs again and again"):
        list(find_log_objects("demo", "", context_of(storage)))


def context_of(storage: Storage) -> Context:
    class Clients:
        def client(self, *_: object) -> Storage:
            return storage

    class Config:
        def current(self) -> Any:
            return tenant_config()

    class Stub:
        s3, config, now = Clients(), Config(), staticmethod(lambda: None)

    return cast("Context", Stub())
