import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.support.fakes.fake_service import (
    grant_outcome,
    refuse_outcome,
    running_fake_service,
    stored_results,
)
from valetkey import Client, Code, Grant, Item, NoAnswer, Refusal, Refused
from valetkey.delivery.retransmit import DEFAULT_WINDOW

KEYS = [f"k/{number}" for number in range(50)]
NOWHERE = "redis://:s3cret@127.0.0.1:1/0"  # no one listens on port 1


def test_a_download_is_granted(broker: str, client: Client) -> None:
    with running_fake_service(broker):
        handle = client.download("reports", "a.pdf", expires_in=60)
        grant = handle.result(10)
    assert (grant.id, grant.key, grant.method) == (f"{handle.id}.0", "a.pdf", "GET")


def test_an_upload_is_granted(broker: str, client: Client) -> None:
    with running_fake_service(broker) as service:
        grant = client.upload("inbox", "a.png", max_size=5, metadata={"a": "b"}).result(10)
    assert (grant.method, grant.fields["key"]) == ("POST", "a.png")
    terms = service.received[0][1]["grant"]
    assert (terms["kind"], terms["max_size"], terms["metadata"]) == ("upload", 5, {"a": "b"})


def test_a_refusal_is_raised_with_its_code(broker: str, client: Client) -> None:
    with running_fake_service(broker), pytest.raises(Refused) as caught:
        client.download("reports", "no/a.pdf").result(10)
    assert (caught.value.refusal.code, caught.value.refusal.key) == (
        Code.KEY_OUTSIDE_PREFIX,
        "no/a.pdf",
    )


def test_a_malformed_request_is_refused_without_a_round_trip(client: Client) -> None:
    with pytest.raises(Refused) as caught:
        client.download("reports", "a.pdf", expires_in=0).result(0)
    assert caught.value.refusal.field == "grant.expires_in"


def test_results_come_in_request_order_however_its_chunks_arrive(
    broker: str, client: Client
) -> None:
    def first_chunk_last(message: dict[str, Any], arrival: int) -> Any:
        return "lose" if message["chunk"] == 0 and arrival == 1 else "answer"

    with running_fake_service(broker, first_chunk_last):
        batch = client.download_many("reports", KEYS, chunk_size=5)
        results = list(batch.results(10))
    assert [result.key for result in results] == KEYS
    assert (batch.issued, batch.refused, batch.remaining) == (50, 0, 0)


def test_refusals_come_between_the_grants(broker: str, client: Client) -> None:
    with running_fake_service(broker):
        batch = client.download_many("reports", ["a", "no/b", Item(key="c")])
        kinds = [type(result) for result in batch]
    assert kinds == [Grant, Refusal, Grant]
    assert (batch.issued, batch.refused, batch.refusal) == (2, 1, None)


def test_a_batch_refused_as_a_whole_refuses_every_item(
    broker: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    with running_fake_service(broker, decide=refuse_outcome) as service:
        batch = client.download_many("reports", KEYS, chunk_size=1)
        results = list(batch.results(10))
    assert [result.key for result in results] == KEYS
    assert batch.refusal is not None
    assert {result.code for result in results if isinstance(result, Refusal)} == {
        Code.QUOTA_EXCEEDED
    }
    assert batch.refused == 50
    assert len(service.received) < 50  # once refused, the other chunks are not sent


@pytest.mark.parametrize("fault", ["lose", "fail", "garble"])
def test_a_chunk_without_an_answer_is_sent_again(
    broker: str, client: Client, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 0.5)
    with running_fake_service(
        broker, lambda _, arrival: fault if arrival < 3 else "answer"
    ) as service:
        assert client.download("reports", "a.pdf").result(10).key == "a.pdf"
    assert set(service.arrivals.values()) == {3}


def test_a_result_that_was_not_announced_is_looked_up(broker: str, client: Client) -> None:
    with running_fake_service(broker, lambda *_: "unannounced"):
        assert client.download("reports", "a.pdf").result(10).key == "a.pdf"


def test_results_that_arrive_twice_count_once(broker: str, client: Client) -> None:
    with running_fake_service(broker, lambda *_: "twice"):
        batch = client.download_many("reports", KEYS, chunk_size=1)
        assert [result.key for result in batch.results(10)] == KEYS
    assert batch.issued == 50


def test_no_more_than_a_window_of_chunks_is_unanswered(broker: str, client: Client) -> None:
    with running_fake_service(broker, lambda *_: "lose") as service:
        batch = client.download_many("reports", KEYS, chunk_size=1)
        with pytest.raises(NoAnswer):
            next(batch.results(1))
    assert len(service.arrivals) == DEFAULT_WINDOW


def test_no_more_than_a_window_is_read_before_its_reader_comes(broker: str, client: Client) -> None:
    keys_read: list[str] = []

    def keys() -> Iterator[str]:
        for key in KEYS:
            keys_read.append(key)
            yield key

    def lose_key_named_never(message: dict[str, Any], _arrival: int) -> Any:
        return "lose" if message["items"][0]["key"] == "never" else "answer"

    with running_fake_service(broker, lose_key_named_never):
        batch = client.download_many("reports", keys(), total=50, chunk_size=1)
        with pytest.raises(NoAnswer):
            client.download("reports", "never").result(2)
        assert len(keys_read) == DEFAULT_WINDOW
        assert len(list(batch.results(10))) == len(keys_read) == 50


def test_without_an_answer_the_wait_ends_in_time(client: Client) -> None:
    with pytest.raises(NoAnswer, match=r"within 0.2 s to 1 of 1 items: no worker takes it from"):
        client.download("reports", "a.pdf").result(0.2)


def test_the_error_names_a_failing_worker_and_does_not_repeat_its_message(
    broker: str, client: Client
) -> None:
    def fail_once(_message: dict[str, Any], arrival: int) -> Any:
        return "fail" if arrival == 1 else "lose"

    with running_fake_service(broker, fail_once), pytest.raises(NoAnswer) as caught:
        client.download("reports", "a.pdf").result(2)
    assert "the worker's log says why" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert stored_results(broker) == {}  # it holds a traceback


def test_after_a_timeout_the_same_handle_asks_again(broker: str, client: Client) -> None:
    handle = client.download("reports", "a.pdf")
    with pytest.raises(NoAnswer):
        handle.result(0.2)
    with redis.Redis.from_url(broker) as server:
        server.flushall()
    with running_fake_service(broker):
        assert handle.result(10).id == f"{handle.id}.0"


def test_no_part_of_a_message_is_in_the_headers_that_workers_log(
    broker: str, client: Client
) -> None:
    with running_fake_service(broker) as service:
        client.download("reports", "private.pdf").result(10)
    headers = json.dumps(service.received[0][0])
    assert [word for word in ("private.pdf", "reports", "acme") if word in headers] == []


def test_no_url_is_in_what_a_grant_prints(broker: str, client: Client) -> None:
    with running_fake_service(broker):
        grant = client.download("reports", "a.pdf").result(10)
    assert grant.url not in repr(grant)


def test_settings_of_another_celery_application_change_nothing(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(name, NOWHERE)
    with running_fake_service(broker), Client(broker, tenant="acme") as client:
        assert client.download("reports", "a.pdf").result(10).key == "a.pdf"


def test_a_refused_key_with_a_lone_surrogate_is_returned_unchanged(
    broker: str, client: Client
) -> None:
    with running_fake_service(broker), pytest.raises(Refused) as caught:
        client.download("reports", "no/\udcff").result(10)
    assert caught.value.refusal.key == "no/\udcff"


def test_a_result_with_too_few_items_is_no_answer(broker: str, client: Client) -> None:
    def without_first_item(message: dict[str, Any]) -> dict[str, Any]:
        return grant_outcome({**message, "items": message["items"][1:]})

    with running_fake_service(broker, decide=without_first_item), pytest.raises(NoAnswer):
        next(client.download_many("reports", ["a", "b"]).results(0.5))
