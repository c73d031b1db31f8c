import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
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


@pytest.fixture
def client(broker: str) -> Iterator[Client]:
    client = Client(broker, tenant="acme", requested_by="test")
    yield client
    client.close()


def test_a_download_is_granted(broker: str, client: Client) -> None:
    with running_fake_service(broker):
        handle = client.download("reports", "a.pdf", expires_in=60)
        grant = handle.result(10)
    assert (grant.id, grant.key, grant.method) == (f"{handle.id}.0", "a.pdf", "GET")


def test_an_upload_is_granted(broker: str, client: Client) -> None:
    with running_fake_service(broker) as service:
        grant = client.upload("inbox", "a.png", max_size=5, metadata={"a": "b"}).result(10)
    assert (grant.method, grant.fields["key"]) == ("POST", "a.png")
    terms = service.arrived[0][1]["grant"]
    assert (terms["kind"], terms["max_size"], terms["metadata"]) == ("upload", 5, {"a": "b"})


def test_a_refusal_is_raised_with_its_code(broker: str, client: Client) -> None:
    with running_fake_service(broker), pytest.raises(Refused) as caught:
        client.download("reports", "no/a.pdf").result(10)
    assert (caught.value.refusal.code, caught.value.refusal.key) == (
        Code.KEY_OUTSIDE_PREFIX,
        "no/a.pdf",
    )


def test_what_cannot_be_right_is_refused_without_a_round_trip(client: Client) -> None:
    with pytest.raises(Refused) as caught:
        client.download("reports", "a.pdf", expires_in=0).result(0)
    assert caught.value.refusal.field == "grant.expires_in"


def test_a_batch_is_answered_in_the_order_asked_however_its_chunks_come(
    broker: str, client: Client
) -> None:
    def first_chunk_last(message: dict[str, Any], arrival: int) -> Any:
        return "lose" if message["chunk"] == 0 and arrival == 1 else "answer"

    with running_fake_service(broker, first_chunk_last):
        batch = client.download_many("reports", KEYS, chunk_size=5)
        answers = list(batch.results(10))
    assert [answer.key for answer in answers] == KEYS
    assert (batch.issued, batch.refused, batch.remaining) == (50, 0, 0)


def test_refusals_stand_between_the_grants(broker: str, client: Client) -> None:
    with running_fake_service(broker):
        batch = client.download_many("reports", ["a", "no/b", Item(key="c")])
        kinds = [type(answer) for answer in batch]
    assert kinds == [Grant, Refusal, Grant]
    assert (batch.issued, batch.refused, batch.refusal) == (2, 1, None)


def test_a_batch_refused_as_a_whole_refuses_every_item(
    broker: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    with running_fake_service(broker, decide=refuse_outcome) as service:
        batch = client.download_many("reports", KEYS, chunk_size=1)
        answers = list(batch.results(10))
    assert [answer.key for answer in answers] == KEYS
    assert batch.refusal is not None
    assert {a.code for a in answers if isinstance(a, Refusal)} == {Code.QUOTA_EXCEEDED}
    assert batch.refused == 50
    assert len(service.arrived) < 50  # once refused, the rest was not even asked for


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


def test_an_answer_that_was_not_announced_is_found(broker: str, client: Client) -> None:
    with running_fake_service(broker, lambda *_: "unannounced"):
        assert client.download("reports", "a.pdf").result(10).key == "a.pdf"


def test_answers_that_come_twice_count_once(broker: str, client: Client) -> None:
    with running_fake_service(broker, lambda *_: "twice"):
        batch = client.download_many("reports", KEYS, chunk_size=1)
        assert [answer.key for answer in batch.results(10)] == KEYS
    assert batch.issued == 50


def test_no_more_than_a_window_of_chunks_is_unanswered(broker: str, client: Client) -> None:
    with running_fake_service(broker, lambda *_: "lose") as service:
        batch = client.download_many("reports", KEYS, chunk_size=1)
        with pytest.raises(NoAnswer):
            next(batch.results(1))
    assert len(service.arrivals) == DEFAULT_WINDOW


def test_no_more_than_a_window_is_read_before_its_reader_comes(broker: str, client: Client) -> None:
    taken: list[str] = []

    def keys() -> Iterator[str]:
        for key in KEYS:
            taken.append(key)
            yield key

    def never(message: dict[str, Any], _arrival: int) -> Any:
        return "lose" if message["items"][0]["key"] == "never" else "answer"

    with running_fake_service(broker, never):
        batch = client.download_many("reports", keys(), total=50, chunk_size=1)
        with pytest.raises(NoAnswer):
            client.download("reports", "never").result(2)
        assert len(taken) == DEFAULT_WINDOW
        assert len(list(batch.results(10))) == len(taken) == 50


def test_without_an_answer_the_wait_ends_in_time(client: Client) -> None:
    with pytest.raises(NoAnswer, match=r"within 0.2 s to 1 of 1 items: is a worker running\?"):
        client.download("reports", "a.pdf").result(0.2)


def test_a_failing_worker_is_named_and_its_words_are_not_repeated(
    broker: str, client: Client
) -> None:
    def once(_message: dict[str, Any], arrival: int) -> Any:
        return "fail" if arrival == 1 else "lose"

    with running_fake_service(broker, once), pytest.raises(NoAnswer) as caught:
        client.download("reports", "a.pdf").result(2)
    assert "the worker's log says why" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert stored_results(broker) == {}  # it holds a traceback


def test_after_a_wait_in_vain_the_same_handle_asks_again(broker: str, client: Client) -> None:
    handle = client.download("reports", "a.pdf")
    with pytest.raises(NoAnswer):
        handle.result(0.2)
    with redis.Redis.from_url(broker) as server:
        server.flushall()
    with running_fake_service(broker):
        assert handle.result(10).id == f"{handle.id}.0"


def test_nobody_waits_beyond_the_deadline(client: Client) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=1.2)
    handle = client.download("reports", "a.pdf", deadline=deadline)
    with pytest.raises(NoAnswer):
        handle.result(60)
    assert deadline <= datetime.now(UTC) < deadline + timedelta(seconds=30)
    client.flush(0)  # it was given up


def test_a_closed_client_asks_nothing_more_and_waits_for_nothing(broker: str) -> None:
    with Client(broker, tenant="acme", exit_timeout=None) as client, running_fake_service(broker):
        read = client.download_many("reports", KEYS[:3])
        client.flush(10)
        lost = client.download("nowhere", "a.pdf")
        client.close()
    assert [answer.key for answer in read] == KEYS[:3]
    for ask in (lost.result, client.usage, lambda: client.download("reports", "b.pdf")):
        with pytest.raises(RuntimeError, match="the client is closed"):
            ask()


def test_a_flush_waits_for_every_answer(broker: str, client: Client) -> None:
    with running_fake_service(broker, lambda _, arrival: "lose" if arrival == 1 else "answer"):
        batch = client.download_many("reports", KEYS, chunk_size=1)
        handle = client.download("reports", "a.pdf")
        client.flush(20)
    assert (batch.issued, handle.result(0).key) == (50, "a.pdf")


def test_leaving_the_block_waits_for_every_answer(broker: str) -> None:
    with running_fake_service(broker) as service, Client(broker, tenant="acme") as client:
        client.download_many("reports", KEYS, chunk_size=1)
    assert len(service.arrivals) == 50


def test_leaving_the_block_without_an_answer_is_an_error(broker: str) -> None:
    with (
        pytest.raises(NoAnswer, match=r"within 0.2 s"),
        Client(broker, tenant="acme", exit_timeout=0.2) as client,
    ):
        client.download("reports", "a.pdf")


def test_nothing_of_a_message_is_in_the_headers_that_workers_log(
    broker: str, client: Client
) -> None:
    with running_fake_service(broker) as service:
        client.download("reports", "private.pdf").result(10)
    headers = json.dumps(service.arrived[0][0])
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


def test_a_refused_key_that_is_no_text_is_answered_all_the_same(
    broker: str, client: Client
) -> None:
    with running_fake_service(broker), pytest.raises(Refused) as caught:
        client.download("reports", "no/\udcff").result(10)
    assert caught.value.refusal.key == "no/\udcff"


def test_an_answer_to_fewer_items_than_asked_is_no_answer(broker: str, client: Client) -> None:
    def one_short(message: dict[str, Any]) -> dict[str, Any]:
        return grant_outcome({**message, "items": message["items"][1:]})

    with running_fake_service(broker, decide=one_short), pytest.raises(NoAnswer):
        next(client.download_many("reports", ["a", "b"]).results(0.5))
