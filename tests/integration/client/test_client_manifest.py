"""A client waits for the file of its answers; tests/acceptance has the real service."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from tests.support.fakes.fake_service import grant_outcome, refuse_outcome, running_fake_service
from tests.support.servers.event_loop import async_client, in_event_loop
from valetkey import Client, Grant, NoAnswer, NotStored, Refused

KEY = "a/all.jsonl.gz"
KEYS = [f"k/{number}" for number in range(25)]
PENDING = {"key": KEY, "state": "pending"}
WRITTEN = {"key": KEY, "state": "written", "issued": 24, "refused": 1, "bytes": 7, "sha256": "ab"}


@pytest.fixture
def broker(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    monkeypatch.setattr("valetkey.manifests._FIRST_GAP", 0.01)
    return valkey_url


@pytest.fixture
def client(broker: str) -> Iterator[Client]:
    client = Client(broker, tenant="acme", requested_by="test")
    yield client
    client.close()


def telling(*manifests: dict[str, Any] | None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A service that tells of the manifest one state after the other."""
    left = list(manifests)

    def decide(message: dict[str, Any]) -> dict[str, Any]:
        if message.get("ask") == "batch":
            told = left.pop(0) if len(left) > 1 else left[0]
            sizes = {"total": len(KEYS), "chunk_size": 10, "decided": 3, "issued": 24, "refused": 1}
            of = {"batch": message["batch"], "kind": "download", "bucket": "reports"}
            return {"status": "found", **of, **sizes, "manifest": told}
        said = grant_outcome(message)
        if "manifest" in message:
            count = len(said.pop("items"))
            few = int(message["chunk"] == 1)
            said |= {"items": [], "issued": count - few, "refused": few}
        return said

    return decide


def test_a_manifest_is_waited_for_and_a_link_to_it_is_asked_for(
    broker: str, client: Client
) -> None:
    with running_fake_service(broker, decide=telling(PENDING, PENDING, WRITTEN)) as service:
        batch = client.download_many("reports", KEYS, chunk_size=10, manifest=KEY)
        found = batch.manifest(10)
    assert (found.key, found.bytes, found.sha256) == (KEY, 7, "ab")
    assert (found.issued, found.refused) == (batch.issued, batch.refused) == (24, 1)
    assert (found.grant.key, found.grant.method) == (KEY, "GET")
    assert list(batch) == []
    manifests = [message.get("manifest") for _, message in service.arrived]
    assert manifests == [KEY, KEY, KEY, None, None, None, None]


@in_event_loop
async def test_a_manifest_is_awaited(broker: str) -> None:
    with running_fake_service(broker, decide=telling(PENDING, WRITTEN)):
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=10, manifest=KEY)
            found = await batch.manifest(10)
    assert (found.key, found.sha256, found.grant.key) == (KEY, "ab", KEY)
    assert batch.remaining == 0


def test_a_manifest_is_found_again_by_its_batchs_id(broker: str, client: Client) -> None:
    with running_fake_service(broker, decide=telling(WRITTEN)) as service:
        batch = client.download_many("reports", KEYS, chunk_size=10, manifest=KEY)
        assert list(batch) == []
        assert client.batch(batch.id).manifest(10).key == KEY
    assert "chunk" not in service.arrived[-2][1]


def test_a_manifest_that_storage_does_not_take_is_an_error_with_its_reason(
    broker: str, client: Client
) -> None:
    failed = {"key": KEY, "state": "failed", "problem": "storage did not take it: AccessDenied"}
    with running_fake_service(broker, decide=telling(PENDING, failed)):
        batch = client.download_many("reports", KEYS, manifest=KEY)
        with pytest.raises(NotStored, match="did not take it: AccessDenied"):
            batch.manifest(10)


def test_a_manifest_that_is_never_written_is_given_up_in_time(broker: str, client: Client) -> None:
    with running_fake_service(broker, decide=telling(PENDING)):
        batch = client.download_many("reports", KEYS, manifest=KEY)
        assert list(batch) == []
        with pytest.raises(NoAnswer, match=r"the manifest was not written within 0\.1 s"):
            batch.manifest(0.1)


def test_a_refused_batch_has_no_manifest_and_says_why(broker: str, client: Client) -> None:
    with running_fake_service(broker, decide=refuse_outcome):
        batch = client.download_many("reports", KEYS, manifest=KEY)
        with pytest.raises(Refused, match="quota_exceeded"):
            batch.manifest(10)


def test_a_batch_without_a_manifest_has_none_to_wait_for(broker: str, client: Client) -> None:
    with running_fake_service(broker, decide=telling(None)):
        batch = client.download_many("reports", ["a"])
        assert [isinstance(answer, Grant) for answer in batch] == [True]
        with pytest.raises(ValueError, match="no manifest was asked for"):
            batch.manifest(10)


def test_a_single_grant_has_no_manifest(client: Client) -> None:
    with pytest.raises(TypeError, match="download has no option 'manifest'"):
        client.download("reports", "a", manifest=KEY)  # type: ignore[call-arg]
