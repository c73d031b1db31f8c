from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from tests.support.fakes.fake_service import (
    grant_outcome,
    record,
    refuse_outcome,
    running_fake_service,
    stored_results,
)
from valetkey import Client, Code, NoAnswer, Refusal, Refused
from valetkey.delivery.retransmit import DEFAULT_WINDOW

KEYS = [f"k/{number}" for number in range(50)]
NOWHERE = "redis://:s3cret@127.0.0.1:1/0"  # no one listens on port 1


def test_a_refusal_is_raised_with_its_code(broker: str, client: Client) -> None:
    with running_fake_service(broker), pytest.raises(Refused) as caught:
        client.download("reports", "no/a.pdf").result(10)
    assert (caught.value.refusal.code, caught.value.refusal.key) == (
        Code.KEY_OUTSIDE_PREFIX,
        "no/a.pdf",
    )


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


def test_no_more_than_a_window_is_read_before_its_reader_comes(broker: str, client: Client) -> None:
    keys_read: list[str] = []

    def lose_key_named_never(message: dict[str, Any], _arrival: int) -> Any:
        return "lose" if message["items"][0]["key"] == "never" else "answer"

    with running_fake_service(broker, lose_key_named_never):
        batch = client.download_many("reports", record(KEYS, keys_read), total=50, chunk_size=1)
        with pytest.raises(NoAnswer):
            client.download("reports", "never").result(2)
        assert len(keys_read) == DEFAULT_WINDOW
        assert len(list(batch.results(10))) == len(keys_read) == 50


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


def test_settings_of_another_celery_application_change_nothing(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(name, NOWHERE)
    with running_fake_service(broker), Client(broker, tenant="acme") as client:
        assert client.download("reports", "a.pdf").result(10).key == "a.pdf"


def test_a_result_with_too_few_items_is_no_answer(broker: str, client: Client) -> None:
    def without_first_item(message: dict[str, Any]) -> dict[str, Any]:
        return grant_outcome({**message, "items": message["items"][1:]})

    with running_fake_service(broker, decide=without_first_item), pytest.raises(NoAnswer):
        next(client.download_many("reports", ["a", "b"]).results(0.5))


def test_a_wait_ends_at_the_deadline(client: Client) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=1.2)
    handle = client.download("reports", "a.pdf", deadline=deadline)
    with pytest.raises(NoAnswer):
        handle.result(60)
    assert deadline <= datetime.now(UTC) < deadline + timedelta(seconds=30)
    client.flush(0)  # the request was given up


def test_a_closed_client_sends_nothing_and_waits_for_nothing(broker: str) -> None:
    with Client(broker, tenant="acme", exit_timeout=None) as client, running_fake_service(broker):
        complete = client.download_many("reports", KEYS[:3])
        client.flush(10)
        incomplete = client.download("nowhere", "a.pdf")
        client.close()
    assert [result.key for result in complete] == KEYS[:3]
    for ask in (incomplete.result, client.usage, lambda: client.download("reports", "b.pdf")):
        with pytest.raises(RuntimeError, match="the client is closed"):
            ask()


def test_leaving_the_block_without_an_answer_is_an_error(broker: str) -> None:
    with (
        pytest.raises(NoAnswer, match=r"within 0.2 s"),
        Client(broker, tenant="acme", exit_timeout=0.2) as client,
    ):
        client.download("reports", "a.pdf")


def test_a_slow_chunk_does_not_delay_the_others(broker: str, client: Client) -> None:
    def lose_first_chunk(message: dict[str, Any], _arrival: int) -> Any:
        return "lose" if message["chunk"] == 0 else "answer"

    with running_fake_service(broker, lose_first_chunk):
        batch = client.download_many("reports", KEYS, chunk_size=5)
        results = batch.as_completed(2)
        assert {next(results).key for _ in range(45)} == set(KEYS[5:])
        with pytest.raises(NoAnswer, match="to 5 of 50 items"):
            next(results)
    with running_fake_service(broker):
        assert [result.key for result in batch.results(10)] == KEYS[:5]


def test_the_first_result_is_returned_before_the_window_is_full(
    broker: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.pending_request.HEAD_START_SECONDS", 10.0)
    monkeypatch.setattr("valetkey.handles.HEAD_START_SECONDS", 10.0)
    keys_read: list[str] = []

    with running_fake_service(broker):
        batch = client.download_many("reports", record(KEYS, keys_read), total=50, chunk_size=1)
        results = batch.results(10)
        assert next(results).key == KEYS[0]
        assert len(keys_read) < DEFAULT_WINDOW
        assert [result.key for result in results] == KEYS[1:]


def test_several_batches_are_sent_in_turn(broker: str, client: Client) -> None:
    with running_fake_service(broker) as service:
        first = client.download_many("reports", KEYS, chunk_size=1)
        second = client.download_many("reports", KEYS[:3], chunk_size=1)
        assert [result.key for result in second.results(10)] == KEYS[:3]
        assert len({message["chunk"] for _, message in service.received}) < len(KEYS)
        assert [result.key for result in first.results(10)] == KEYS
