"""A client waits for a manifest; tests/acceptance has the real service."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fakes.fake_service import grant_outcome, refuse_outcome, running_fake_service
from tests.support.servers.event_loop import async_client, in_event_loop
from valetkey import Client, Refused

KEY = "a/all.jsonl.gz"
KEYS = [f"k/{number}" for number in range(25)]
PENDING = {"key": KEY, "state": "pending"}
WRITTEN = {"key": KEY, "state": "written", "issued": 24, "refused": 1, "bytes": 7, "sha256": "ab"}


@pytest.fixture
def broker(broker: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)  # messages are counted
    monkeypatch.setattr("valetkey.waits._FIRST_INTERVAL", 0.01)
    return broker


def service_with_manifests(
    *manifests: dict[str, Any] | None,
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a service that reports these states of the manifest, one after the other."""
    states = list(manifests)

    def decide(message: dict[str, Any]) -> dict[str, Any]:
        if message.get("ask") == "batch":
            manifest = states.pop(0) if len(states) > 1 else states[0]
            counts = {
                "total": len(KEYS),
                "chunk_size": 10,
                "decided": 3,
                "issued": 24,
                "refused": 1,
            }
            fields = {"batch": message["batch"], "kind": "download", "bucket": "reports"}
            return {"status": "found", **fields, **counts, "manifest": manifest}
        outcome = grant_outcome(message)
        if "manifest" in message:
            count = len(outcome.pop("items"))
            refused = int(message["chunk"] == 1)
            outcome |= {"items": [], "issued": count - refused, "refused": refused}
        return outcome

    return decide


def test_a_manifest_is_waited_for_and_a_link_to_it_is_requested(
    broker: str, client: Client
) -> None:
    with running_fake_service(
        broker, decide=service_with_manifests(PENDING, PENDING, WRITTEN)
    ) as service:
        batch = client.download_many("reports", KEYS, chunk_size=10, manifest=KEY)
        manifest = batch.manifest(10)
    assert (manifest.key, manifest.bytes, manifest.sha256) == (KEY, 7, "ab")
    assert (manifest.issued, manifest.refused) == (batch.issued, batch.refused) == (24, 1)
    assert (manifest.grant.key, manifest.grant.method) == (KEY, "GET")
    assert list(batch) == []
    manifests = [message.get("manifest") for _, message in service.received]
    assert manifests == [KEY, KEY, KEY, None, None, None, None]


@in_event_loop
async def test_a_manifest_is_awaited(broker: str) -> None:
    with running_fake_service(broker, decide=service_with_manifests(PENDING, WRITTEN)):
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=10, manifest=KEY)
            manifest = await batch.manifest(10)
    assert (manifest.key, manifest.sha256, manifest.grant.key) == (KEY, "ab", KEY)
    assert batch.remaining == 0


def test_a_manifest_is_available_by_the_batch_id(broker: str, client: Client) -> None:
    with running_fake_service(broker, decide=service_with_manifests(WRITTEN)) as service:
        batch = client.download_many("reports", KEYS, chunk_size=10, manifest=KEY)
        assert list(batch) == []
        assert client.batch(batch.id).manifest(10).key == KEY
    assert "chunk" not in service.received[-2][1]


def test_a_refused_batch_has_no_manifest_and_says_why(broker: str, client: Client) -> None:
    with running_fake_service(broker, decide=refuse_outcome):
        batch = client.download_many("reports", KEYS, manifest=KEY)
        with pytest.raises(Refused, match="quota_exceeded"):
            batch.manifest(10)
