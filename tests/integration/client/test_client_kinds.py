"""The message of each kind of grant; tests/acceptance has the real service."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.fakes.fake_service import FakeService, record, running_fake_service
from valetkey import Checksum, Client, GrantHandle, Item

CHECKSUM = Checksum(algorithm="crc32", value="AAAAAA==")


@pytest.fixture
def service(broker: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    with running_fake_service(broker) as service:
        yield service


def last_request(service: FakeService) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the terms and items of the last message."""
    message = service.received[-1][1]
    return message["grant"], message["items"]


SIZE, PART_SIZE = 12 * 1024**2, 5 * 1024**2
REQUESTS: dict[str, tuple[Callable[[Client], GrantHandle], dict[str, Any], dict[str, Any]]] = {
    "a version": (
        lambda c: c.download("reports", "a", version_id="v", method="HEAD", inline=True),
        {"kind": "download", "method": "HEAD", "inline": True},
        {"version_id": "v"},
    ),
    "a form for a checksum": (
        lambda c: c.upload(
            "inbox", "a", max_size=5, checksum=CHECKSUM, success_status=201, metadata={"a": "b"}
        ),
        {"kind": "upload", "max_size": 5, "success_status": 201, "metadata": {"a": "b"}},
        {"checksum": CHECKSUM.model_dump()},
    ),
    "a put of one size": (
        lambda c: c.put("inbox", "a", size=5, checksum=CHECKSUM, overwrite=True),
        {"kind": "put", "max_size": 5, "overwrite": True},
        {"size": 5, "checksum": CHECKSUM.model_dump()},
    ),
    "a put of an empty file": (
        lambda c: c.put("inbox", "a", size=0),
        {"kind": "put", "max_size": 1},
        {"size": 0},
    ),
    "a multipart upload of a file that is cut": (
        lambda c: c.multipart("inbox", "a", size=SIZE, part_size=PART_SIZE),
        {"kind": "multipart", "max_size": SIZE, "part_size": PART_SIZE},
        {"size": SIZE},
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_has_the_terms_and_the_item_of_its_kind(
    service: FakeService, client: Client, name: str
) -> None:
    ask, expected_terms, item = REQUESTS[name]
    handle = ask(client)
    grant = handle.result(10)
    assert (grant.id, grant.key) == (f"{handle.id}.0", "a")
    terms, items = last_request(service)
    assert terms.items() >= expected_terms.items()
    assert items == [{"key": "a", **item}]


def test_many_puts_reserve_their_largest_size(service: FakeService, client: Client) -> None:
    items = (Item(key=key, size=size) for key, size in (("a", 5), ("b", 7), ("c", 0)))
    results = list(client.put_many("inbox", items).results(10))
    assert last_request(service)[0]["max_size"] == 7
    assert [result.key for result in results] == ["a", "b", "c"]


@pytest.mark.usefixtures("service")
def test_many_puts_of_a_known_size_are_not_listed_first(client: Client) -> None:
    keys_read: list[str] = []
    items = (Item(key=key, size=1) for key in record(map(str, range(100)), keys_read))
    batch = client.put_many("inbox", items, total=100, chunk_size=1, max_size=1)
    assert len(keys_read) < 100
    assert len(list(batch.results(10))) == 100


def test_parts_are_requested_in_ranges(service: FakeService, client: Client) -> None:
    upload = client.multipart("inbox", "a", size=40 * 1024**2)
    parts = list(upload.parts(2, 3, expires_in=60).results(10))
    terms, items = last_request(service)
    assert terms == {
        "kind": "parts",
        "bucket": "inbox",
        "expires_in": 60,
        "of": upload.result().id,
    }
    assert items == [{"key": "a", "part": 2}, {"key": "a", "part": 3}]
    assert [part.part for part in parts if not hasattr(part, "code")] == [2, 3]
    assert len(list(upload.parts(7).results(10))) == 2


@pytest.mark.parametrize(("first", "last"), [(0, 1), (3, 2), (1, 9)])
def test_parts_that_do_not_exist_are_not_requested(
    service: FakeService, client: Client, first: int, last: int
) -> None:
    upload = client.multipart("inbox", "a", size=40 * 1024**2)
    with pytest.raises(ValueError, match="the upload has 8 parts"):
        upload.parts(first, last)
    assert len(service.received) == 1
