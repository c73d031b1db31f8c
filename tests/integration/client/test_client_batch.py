"""A batch is reopened by its id alone."""

from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest

from tests.support.builders.keyed_service import (
    Respond,
    keyed_client,
    wire_result,
)
from tests.support.fakes.fake_service import running_fake_service
from valetkey import Client, Code, Grant, NoAnswer, Refusal, Refused

KEYS = [*(f"acme/{number}" for number in range(18)), "globex/no", "acme/last"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.PROBE_INTERVAL", 0.05)


class LateChunks:
    """Loses the second and the last chunk of a batch until they are released."""

    def __init__(self) -> None:
        self.released = Event()

    def __call__(self, message: dict[str, Any], _: int) -> Any:
        is_late = "items" in message and message["chunk"] in {1, 3}
        return "lose" if is_late and not self.released.is_set() else "answer"


def start_unfinished_batch(client: Client) -> str:
    """Request a batch of four chunks; the second and the last one are lost. Return its id."""
    batch = client.download_many("demo", KEYS, chunk_size=5)
    assert len(list(zip(range(5), batch.results(10), strict=False))) == 5
    client.usage()  # in the same queue, so behind the third chunk
    return batch.id


@pytest.mark.filterwarnings("ignore:nobody has read the refusals")  # by the first client
def test_undecided_chunks_are_waited_for_and_counted(service: Respond, broker: str) -> None:
    late = LateChunks()
    with running_fake_service(broker, late, wire_result(service)), keyed_client(broker) as client:
        batch = start_unfinished_batch(client)
        with keyed_client(broker) as other:
            reopened = other.batch(batch)
            assert (reopened.issued, reopened.remaining) == (10, 10)
            results = reopened.results(2)
            assert [next(results).key for _ in range(5)] == KEYS[:5]
            with pytest.raises(NoAnswer, match="to 10 of 20 items: the service has not decided"):
                next(results)
            assert [result.key for result in _take(reopened.as_completed(2), 5)] == KEYS[10:15]
            late.released.set()
            client.flush(10)
            assert [result.key for result in reopened.results(10)] == KEYS[5:10] + KEYS[15:]
            assert (reopened.issued, reopened.refused, reopened.remaining) == (19, 1, 0)


def _take(results: Iterator[Grant | Refusal], count: int) -> list[Grant | Refusal]:
    return [next(results) for _ in range(count)]


@pytest.mark.parametrize("first", [-1, 3])
def test_first_chunk_must_be_a_chunk_of_the_batch(broker: str, first: int) -> None:
    with keyed_client(broker) as client, pytest.raises(ValueError, match="the batch has 2 chunks"):
        client.download_many("demo", ["a"], total=4, chunk_size=2, first_chunk=first)


def test_a_grant_can_be_read_from_its_handle_and_its_batch(keyed: Client) -> None:
    handle = keyed.download("demo", "acme/a")
    assert list(handle.batch) == [handle.result(10)] == list(handle.batch)


def test_an_unknown_batch_is_refused(keyed: Client) -> None:
    with pytest.raises(Refused) as caught:
        keyed.batch("0199a000-0000-7000-8000-000000000000")
    assert caught.value.refusal.code is Code.BATCH_UNKNOWN


def test_the_items_of_a_batch_may_be_results_of_another_batch(keyed: Client) -> None:
    first = keyed.download_many("demo", [f"acme/{n}" for n in range(40)], chunk_size=1)
    keys = (f"{result.key}.copy" for result in first)
    second = keyed.download_many("demo", keys, total=40, chunk_size=2)
    copies = [result.key for result in second.results(10)]
    assert copies == [f"acme/{n}.copy" for n in range(40)]
