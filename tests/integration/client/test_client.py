import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.fakes.fake_service import (
    record,
    running_fake_service,
    stored_results,
)
from valetkey import Client, Grant, NoAnswer, Refusal
from valetkey.delivery.retransmit import DEFAULT_WINDOW

KEYS = [f"k/{number}" for number in range(50)]
NOWHERE = "redis://:s3cret@127.0.0.1:1/0"  # no one listens on port 1


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


def test_settings_of_another_celery_application_change_nothing(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(name, NOWHERE)
    with running_fake_service(broker), Client(broker, tenant="acme") as client:
        assert client.download("reports", "a.pdf").result(10).key == "a.pdf"


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


def test_a_flush_waits_for_more_results_than_fit_into_the_window(
    broker: str, client: Client
) -> None:
    with running_fake_service(broker):
        batch = client.download_many("reports", KEYS, chunk_size=1)
        client.flush(10)
    assert batch.issued == len(KEYS) > DEFAULT_WINDOW


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


def test_results_that_were_begun_while_a_loop_ran_are_all_read_after_its_end(
    broker: str, client: Client
) -> None:
    async def begin() -> Iterator[Grant | Refusal]:
        results = client.download_many("reports", KEYS, chunk_size=5).results(10)
        next(results)
        return results

    with running_fake_service(broker):
        assert len(list(asyncio.run(begin()))) == 49


def test_the_first_result_is_returned_before_the_window_is_full(
    broker: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.pending_request.HEAD_START_SECONDS", 10.0)
    monkeypatch.setattr("valetkey.delivery.dispatcher.HEAD_START_SECONDS", 10.0)
    keys_read: list[str] = []

    with running_fake_service(broker):
        batch = client.download_many("reports", record(KEYS, keys_read), total=50, chunk_size=1)
        results = batch.results(10)
        assert next(results).key == KEYS[0]
        assert len(keys_read) < DEFAULT_WINDOW
        assert [result.key for result in results] == KEYS[1:]
