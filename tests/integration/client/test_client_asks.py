"""Requests with one reply: usage, cancelling and explaining."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fakes.fake_service import (
    FakeService,
    grant_outcome,
    record,
    running_fake_service,
)
from valetkey import Client, Code, Grant, Item, NoAnswer, Refusal, Refused

QUOTA = {"metric": "grants", "window": "day", "limit": 100, "used": 90, "warn_at": 80}
KEYS = [f"k/{number}" for number in range(50)]
NO_TENANT = {"code": "tenant_unknown", "field": "tenant", "message": "no such tenant"}


def reply_to(message: dict[str, Any]) -> dict[str, Any]:
    """Return the reply of the service."""
    match message.get("ask"):
        case "usage":
            return {"status": "told", "tenant": message["tenant"], "quotas": [QUOTA]}
        case "cancel":
            batch = message["batch"]
            return {"status": "cancelled", "batch": batch, "issued": 3, "released": 47}
        case "explain":
            rule = {"rule": "prefix", "found": message["items"][0]["key"]}
            return {"status": "explained", "decision": "issue", "rules": [rule]}
    return grant_outcome(message) | {"quotas": [QUOTA]}


def refuse_tenant(_message: dict[str, Any]) -> dict[str, Any]:
    return {"batch": "", "chunk": 0, "status": "refused", "refusal": NO_TENANT}


def last_message(service: FakeService) -> dict[str, Any]:
    return service.received[-1][1]


def test_usage_is_returned(broker: str, client: Client) -> None:
    with running_fake_service(broker, decide=reply_to) as service:
        (quota,) = client.usage()
    assert (quota.left, quota.warns) == (10, True)
    assert last_message(service) == {"v": 1, "ask": "usage", "tenant": "acme"}


def test_a_cancelled_handle_sends_no_more_chunks(broker: str, client: Client) -> None:
    keys_read: list[str] = []

    with running_fake_service(broker, decide=reply_to) as service:
        batch = client.download_many("reports", record(KEYS, keys_read), total=50, chunk_size=1)
        client.cancel(batch)
        results = list(batch.results(10))
        sent = {message["chunk"] for _, message in service.received if "items" in message}
    assert len(sent) < len(KEYS)
    assert [result.key for result in results] == KEYS == keys_read
    assert [isinstance(result, Grant) for result in results] == [
        number in sent for number in range(50)
    ]
    assert isinstance(results[-1], Refusal)
    assert results[-1].code is Code.BATCH_CLOSED


def test_a_request_with_one_reply_is_sent_again_until_it_is_answered(
    broker: str, client: Client
) -> None:
    with running_fake_service(
        broker, lambda _, n: "lose" if n < 3 else "answer", reply_to
    ) as service:
        assert client.usage()
    (arrivals,) = service.arrivals.values()
    assert arrivals > 2


def test_the_reply_to_another_request_is_no_answer(broker: str, client: Client) -> None:
    with running_fake_service(
        broker, decide=lambda _: reply_to({"ask": "usage", "tenant": "globex"})
    ):
        with pytest.raises(NoAnswer, match=r"within 2 s: the worker's log says why"):
            client.usage(timeout=2)
        with pytest.raises(NoAnswer):
            client.cancel("0199a000-0000-7000-8000-000000000000", timeout=0.2)


@pytest.mark.parametrize(
    "ask",
    [
        Client.usage,
        lambda client: client.cancel("0199a000-0000-7000-8000-000000000000"),
        lambda client: client.explain().download("reports", "a"),
    ],
    ids=["usage", "cancel", "explain"],
)
def test_a_refusal_is_raised(broker: str, client: Client, ask: Callable[[Client], Any]) -> None:
    with running_fake_service(broker, decide=refuse_tenant), pytest.raises(Refused) as caught:
        ask(client)
    assert caught.value.refusal.code is Code.TENANT_UNKNOWN


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.cancel("no id"),
        lambda client: client.explain().download("reports", "a", expires_in=0),
    ],
    ids=["cancel", "explain"],
)
def test_a_malformed_request_is_refused_without_a_round_trip(
    client: Client, ask: Callable[[Client], Any]
) -> None:
    with pytest.raises(Refused):
        ask(client)


def test_while_a_batch_fills_the_window_usage_is_answered(broker: str, client: Client) -> None:
    with running_fake_service(broker, decide=reply_to):
        batch = client.download_many("reports", KEYS, chunk_size=1)
        assert client.usage()
        assert len(list(batch.results(10))) == 50


def test_a_batch_has_the_quotas_of_its_newest_reply(broker: str, client: Client) -> None:
    with running_fake_service(broker, decide=reply_to):
        batch = client.download_many("reports", ["a", "b"])
        assert batch.quotas == []
        assert len(list(batch.results(10))) == 2
    assert [(quota.metric, quota.left) for quota in batch.quotas] == [("grants", 10)]


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


def test_a_batch_is_cancelled_by_its_id(broker: str, client: Client) -> None:
    batch = "0199a000-0000-7000-8000-000000000000"
    with running_fake_service(broker, decide=reply_to) as service:
        cancelled = client.cancel(batch, reason="wrong month")
    assert (cancelled.batch, cancelled.issued, cancelled.released) == (batch, 3, 47)
    assert last_message(service) == {
        "v": 1,
        "ask": "cancel",
        "tenant": "acme",
        "batch": batch,
        "requested_by": "test",
        "reason": "wrong month",
    }
