"""A batch is read in request order or as completed, and sent as it is read."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fakes.fake_service import running_fake_service
from tests.support.servers.waiting import wait_until
from valetkey import Client, NoAnswer
from valetkey.delivery.retransmit import DEFAULT_WINDOW

KEYS = [f"k/{number}" for number in range(50)]


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

    def keys() -> Iterator[str]:
        for key in KEYS:
            keys_read.append(key)
            yield key

    with running_fake_service(broker):
        batch = client.download_many("reports", keys(), total=50, chunk_size=1)
        results = batch.results(10)
        assert next(results).key == KEYS[0]
        assert len(keys_read) < DEFAULT_WINDOW
        assert [result.key for result in results] == KEYS[1:]


def test_without_an_early_result_the_window_is_filled(broker: str, client: Client) -> None:
    with running_fake_service(broker, lambda *_: "lose") as service:
        client.download_many("reports", KEYS, chunk_size=1)
        with pytest.raises(NoAnswer):
            client.usage(timeout=0.1)
        wait_until(lambda: len(service.arrivals) >= DEFAULT_WINDOW)
    assert len(service.arrivals) == DEFAULT_WINDOW


def test_several_batches_are_sent_in_turn(broker: str, client: Client) -> None:
    with running_fake_service(broker) as service:
        first = client.download_many("reports", KEYS, chunk_size=1)
        second = client.download_many("reports", KEYS[:3], chunk_size=1)
        assert [result.key for result in second.results(10)] == KEYS[:3]
        assert len({message["chunk"] for _, message in service.received}) < len(KEYS)
        assert [result.key for result in first.results(10)] == KEYS
