"""The message of each kind of grant; tests/acceptance has the real service."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.support.fakes.fake_service import FakeService, running_fake_service
from valetkey import Checksum, Client, Code, Item, Refused

CHECKSUM = Checksum(algorithm="crc32", value="AAAAAA==")


@pytest.fixture
def service(valkey_url: str) -> Iterator[FakeService]:
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    with running_fake_service(valkey_url) as service:
        yield service


@pytest.fixture
def client(valkey_url: str) -> Iterator[Client]:
    client = Client(valkey_url, tenant="acme", requested_by="test")
    yield client
    client.close()


def last_request(service: FakeService) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the terms and items of the last message."""
    message = service.received[-1][1]
    return message["grant"], message["items"]


def test_a_version_is_downloaded(service: FakeService, client: Client) -> None:
    client.download("reports", "a", version_id="v", method="HEAD", inline=True).result(10)
    terms, items = last_request(service)
    assert (terms["method"], terms["inline"]) == ("HEAD", True)
    assert items == [{"key": "a", "version_id": "v"}]


def test_a_link_is_plain_only_if_it_is_requested(service: FakeService, client: Client) -> None:
    client.download("reports", "a", plain=True).result(10)
    assert last_request(service)[0]["plain"] is True
    client.download("reports", "a").result(10)
    assert "plain" not in last_request(service)[0]


def test_a_form_is_for_a_checksum(service: FakeService, client: Client) -> None:
    client.upload("inbox", "a", max_size=5, checksum=CHECKSUM, success_status=201).result(10)
    terms, items = last_request(service)
    assert (terms["kind"], terms["success_status"]) == ("upload", 201)
    assert items == [{"key": "a", "checksum": CHECKSUM.model_dump()}]


def test_a_put_is_for_one_size(service: FakeService, client: Client) -> None:
    grant = client.put("inbox", "a", size=5, checksum=CHECKSUM, overwrite=True).result(10)
    terms, items = last_request(service)
    assert (terms["kind"], terms["max_size"], terms["overwrite"]) == ("put", 5, True)
    assert items == [{"key": "a", "size": 5, "checksum": CHECKSUM.model_dump()}]
    assert (grant.method, grant.headers["content-length"]) == ("PUT", "5")


def test_an_empty_file_can_be_put(service: FakeService, client: Client) -> None:
    client.put("inbox", "a", size=0).result(10)
    terms, items = last_request(service)
    assert (terms["max_size"], items[0]["size"]) == (1, 0)


def test_a_negative_size_is_refused_without_a_round_trip(client: Client) -> None:
    with pytest.raises(Refused) as caught:
        client.put("inbox", "a", size=-1).result(0)
    assert caught.value.refusal.code is Code.SIZE_INVALID


def test_many_puts_reserve_their_largest_size(service: FakeService, client: Client) -> None:
    items = (Item(key=key, size=size) for key, size in (("a", 5), ("b", 7), ("c", 0)))
    results = list(client.put_many("inbox", items).results(10))
    assert last_request(service)[0]["max_size"] == 7
    assert [result.key for result in results] == ["a", "b", "c"]


@pytest.mark.usefixtures("service")
def test_many_puts_of_a_known_size_are_not_listed_first(client: Client) -> None:
    keys_read: list[str] = []

    def items() -> Iterator[Item]:
        for number in range(100):
            keys_read.append(str(number))
            yield Item(key=str(number), size=1)

    batch = client.put_many("inbox", items(), total=100, chunk_size=1, max_size=1)
    assert len(keys_read) < 100
    assert len(list(batch.results(10))) == 100


def test_a_multipart_upload_says_how_to_cut_the_file(service: FakeService, client: Client) -> None:
    size = 12 * 1024**2
    grant = client.multipart("inbox", "a", size=size, part_size=5 * 1024**2).result(10)
    terms, items = last_request(service)
    assert (terms["max_size"], terms["part_size"]) == (size, 5 * 1024**2)
    assert items == [{"key": "a", "size": size}]
    assert grant.multipart is not None
    assert grant.multipart.part_count == 3


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


def test_an_option_of_another_kind_is_an_error(client: Client) -> None:
    with pytest.raises(TypeError, match="put has no option 'min_size'"):
        client.put("inbox", "a", size=1, min_size=1)  # type: ignore[call-arg]
