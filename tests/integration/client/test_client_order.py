"""A batch is read in the order asked or as it is answered, and sent as it is read."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fakes.fake_service import running_fake_service
from tests.support.servers.waiting import wait_until
from valetkey import Client, NoAnswer
from valetkey.delivery.retransmit import DEFAULT_WINDOW

KEYS = [f"k/{number}" for number in range(50)]


@pytest.fixture
def client(broker: str) -> Iterator[Client]:
    client = Client(broker, tenant="acme", requested_by="test")
    yield client
    client.close()


def test_a_slow_chunk_keeps_no_others_waiting(broker: str, client: Client) -> None:
    def first_chunk_never(message: dict[str, Any], _arrival: int) -> Any:
        return "lose" if message["chunk"] == 0 else "answer"

    with running_fake_service(broker, first_chunk_never):
        batch = client.download_many("reports", KEYS, chunk_size=5)
        answers = batch.as_completed(2)
        assert {next(answers).key for _ in range(45)} == set(KEYS[5:])
        with pytest.raises(NoAnswer, match="to 5 of 50 items"):
            next(answers)
    with running_fake_service(broker):
        assert [answer.key for answer in batch.results(10)] == KEYS[:5]


def test_the_first_answer_is_handed_out_before_the_window_is_full(
    broker: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.in_flight.FIRST_CHUNKS_SECONDS", 10.0)
    monkeypatch.setattr("valetkey.handles.HEAD_START", 10.0)
    taken: list[str] = []

    def keys() -> Iterator[str]:
        for key in KEYS:
            taken.append(key)
            yield key

    with running_fake_service(broker):
        batch = client.download_many("reports", keys(), total=50, chunk_size=1)
        answers = batch.results(10)
        assert next(answers).key == KEYS[0]
        assert len(taken) < DEFAULT_WINDOW
        assert [answer.key for answer in answers] == KEYS[1:]


def test_where_no_answer_comes_soon_the_window_is_filled(broker: str, client: Client) -> None:
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
        assert [answer.key for answer in second.results(10)] == KEYS[:3]
        assert len({message["chunk"] for _, message in service.arrived}) < len(KEYS)
        assert [answer.key for answer in first.results(10)] == KEYS
