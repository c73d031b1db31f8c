"""Requests with one reply: usage, cancelling and explaining."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fakes.fake_service import (
    FakeService,
    grant_outcome,
    running_fake_service,
)
from valetkey import Client, Item, Refused

QUOTA = {"metric": "grants", "window": "day", "limit": 100, "used": 90, "warn_at": 80}
KEYS = [f"k/{number}" for number in range(50)]


def reply_to(message: dict[str, Any]) -> dict[str, Any]:
    """Return the reply of the service."""
    match message.get("ask"):
        case "usage":
            return {"status": "reported", "tenant": message["tenant"], "quotas": [QUOTA]}
        case "cancel":
            batch = message["batch"]
            return {"status": "cancelled", "batch": batch, "issued": 3, "released": 47}
        case "explain":
            rule = {"rule": "prefix", "found": message["items"][0]["key"]}
            return {"status": "explained", "decision": "issue", "rules": [rule]}
    return grant_outcome(message) | {"quotas": [QUOTA]}


def last_message(service: FakeService) -> dict[str, Any]:
    return service.received[-1][1]


def test_a_malformed_request_is_refused_without_a_round_trip(client: Client) -> None:
    with pytest.raises(Refused, match="reason"):
        client.cancel("0199a000-0000-7000-8000-000000000000", reason="")


EXPLAINED: list[tuple[str, Callable[[Any], Any]]] = [
    ("download", lambda client: client.download("b", "a", version_id="v")),
    ("upload", lambda client: client.upload("b", "a", max_size=5)),
    ("put", lambda client: client.put("b", "a", size=5)),
    ("multipart", lambda client: client.multipart("b", "a", size=5)),
    ("download", lambda client: client.download_many("b", ["a", "c"], expires_in=60)),
    ("upload", lambda client: client.upload_many("b", ["a"], max_size=5)),
    ("put", lambda client: client.put_many("b", [Item(key="a", size=5)])),
]


@pytest.mark.parametrize(("kind", "ask"), EXPLAINED)
def test_any_request_can_be_explained_instead(
    broker: str, client: Client, kind: str, ask: Callable[[Any], Any]
) -> None:
    with running_fake_service(broker, decide=reply_to) as service:
        explanation = ask(client.explain(10))
        explained = last_message(service)
        ask(client)
        client.flush(10)
    assert (explanation.decision, explanation.rules[0].found) == ("issue", "a")
    assert (explained.pop("ask"), explained["grant"]["kind"]) == ("explain", kind)
    # The same message as the request itself, except for its id.
    assert explained | {"batch": ""} == last_message(service) | {"batch": ""}


def test_a_batch_is_explained_by_its_first_chunk(broker: str, client: Client) -> None:
    with running_fake_service(broker, decide=reply_to) as service:
        client.explain().download_many("b", iter(KEYS), total=50, chunk_size=20)
        client.flush(10)
    chunks = [(m["total"], m["chunk"], len(m["items"])) for _, m in service.received]
    assert set(chunks) == {(50, 0, 20)}


def test_a_request_without_items_cannot_be_explained(client: Client) -> None:
    with pytest.raises(ValueError, match="no items"):
        client.explain().download_many("b", [])
