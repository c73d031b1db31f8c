"""A batch is reopened by its id, by a client that knows nothing else of it."""

from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest
import redis

from tests.support.builders.keyed_service import (
    KEY,
    OLD,
    Answering,
    keyed_client,
    running_keyed_service,
    wire_result,
)
from tests.support.fakes.fake_service import running_fake_service
from tests.support.servers.event_loop import async_client as asking_in_a_loop
from tests.support.servers.event_loop import in_event_loop
from valetkey import Client, Code, Grant, NoAnswer, Refusal, Refused
from valetkey.crypto.keys import dump_private_key

KEYS = [*(f"acme/{number}" for number in range(18)), "globex/no", "acme/last"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answering]:
    with running_keyed_service(tmp_path_factory.mktemp("keyed")) as service:
        yield service


@pytest.fixture
def broker(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 0.1)
    monkeypatch.setattr("valetkey.delivery.retransmit.PROBE_INTERVAL", 0.05)
    return valkey_url


def urls(answers: list[Grant | Refusal]) -> list[str]:
    return [answer.url if isinstance(answer, Grant) else answer.code for answer in answers]


class Late:
    """Loses the second and the last chunk of what is asked first, until they may come."""

    def __init__(self) -> None:
        self.come = Event()

    def __call__(self, message: dict[str, Any], _: int) -> Any:
        is_late = "items" in message and message["chunk"] in {1, 3}
        return "lose" if is_late and not self.come.is_set() else "answer"


def left_unfinished(client: Client) -> str:
    """Ask for a batch of four chunks, of which the second and the last do not arrive."""
    batch = client.download_many("demo", KEYS, chunk_size=5)
    assert len(list(zip(range(5), batch.results(10), strict=False))) == 5
    client.usage()  # in the same queue, so behind the third chunk
    return batch.id


def test_another_process_reads_the_same_grants_which_are_charged_once(
    service: Answering, broker: str
) -> None:
    with running_fake_service(broker, decide=wire_result(service)), keyed_client(broker) as client:
        batch = client.download_many("demo", KEYS, chunk_size=5)
        first = list(batch.results(10))
        (before,) = client.usage()
        with keyed_client(broker, OLD) as other:
            again = other.batch(batch.id)
            assert (again.total, again.issued, again.refused, again.remaining) == (20, 19, 1, 0)
            assert urls(list(again.results(10))) == urls(first)
            assert (again.issued, again.refused, again.refusal) == (19, 1, None)
            assert other.usage() == [before]


def test_what_is_not_decided_yet_is_waited_for_and_counted(service: Answering, broker: str) -> None:
    late = Late()
    with running_fake_service(broker, late, wire_result(service)), keyed_client(broker) as client:
        batch = left_unfinished(client)
        with keyed_client(broker) as other:
            again = other.batch(batch)
            assert (again.issued, again.remaining) == (10, 10)
            answers = again.results(2)
            assert [next(answers).key for _ in range(5)] == KEYS[:5]
            with pytest.raises(NoAnswer, match="to 10 of 20 items: the service has not decided"):
                next(answers)
            assert [answer.key for answer in _of(again.as_completed(2), 5)] == KEYS[10:15]
            late.come.set()
            client.flush(10)
            assert [answer.key for answer in again.results(10)] == KEYS[5:10] + KEYS[15:]
            assert (again.issued, again.refused, again.remaining) == (19, 1, 0)


def _of(answers: Iterator[Grant | Refusal], count: int) -> list[Grant | Refusal]:
    return [next(answers) for _ in range(count)]


def test_of_a_cancelled_batch_what_was_granted_is_read_and_the_rest_is_refused(
    service: Answering, broker: str
) -> None:
    with running_fake_service(broker, Late(), wire_result(service)), keyed_client(broker) as client:
        batch = left_unfinished(client)
        client.cancel(batch)
        again = client.batch(batch)
        answers = list(again.results(10))
        client.close()
    assert [isinstance(answer, Grant) for answer in answers] == [
        number // 5 in {0, 2} for number in range(20)
    ]
    assert {(a.code, a.key) for a in answers if isinstance(a, Refusal)} == {
        (Code.BATCH_CLOSED, None)
    }
    assert again.refusal is not None
    assert again.remaining == 0


def test_a_batch_may_be_made_of_the_answers_to_another(service: Answering, broker: str) -> None:
    with running_fake_service(broker, decide=wire_result(service)), keyed_client(broker) as client:
        first = client.download_many("demo", [f"acme/{n}" for n in range(40)], chunk_size=1)
        keys = (f"{answer.key}.copy" for answer in first)
        second = client.download_many("demo", keys, total=40, chunk_size=2)
        copies = [answer.key for answer in second.results(10)]
    assert copies == [f"acme/{n}.copy" for n in range(40)]


@pytest.mark.parametrize("first", [-1, 3])
def test_a_batch_goes_on_from_a_chunk_that_it_has(broker: str, first: int) -> None:
    with keyed_client(broker) as client, pytest.raises(ValueError, match="the batch has 2 chunks"):
        client.download_many("demo", ["a"], total=4, chunk_size=2, first_chunk=first)


def test_a_grant_that_was_read_from_its_batch_is_not_there_twice(
    service: Answering, broker: str
) -> None:
    with running_fake_service(broker, decide=wire_result(service)), keyed_client(broker) as client:
        handle = client.download("demo", "acme/a")
        assert [answer.key for answer in handle.batch] == ["acme/a"]
        with pytest.raises(RuntimeError, match="read from its batch"):
            handle.result(10)


@in_event_loop
async def test_a_grant_that_was_read_from_its_batch_is_not_awaited_twice(broker: str) -> None:
    with running_fake_service(broker):
        async with asking_in_a_loop(broker) as client:
            handle = client.download("demo", "acme/a")
            assert [answer.key async for answer in handle.batch] == ["acme/a"]
            with pytest.raises(RuntimeError, match="read from its batch"):
                await handle


@pytest.mark.parametrize("batch", ["0199a000-0000-7000-8000-000000000000", "no id"])
def test_a_batch_that_never_was_is_refused(service: Answering, broker: str, batch: str) -> None:
    with running_fake_service(broker, decide=wire_result(service)), keyed_client(broker) as client:
        with pytest.raises(Refused) as caught:
            client.batch(batch)
        assert caught.value.refusal.code in {Code.BATCH_UNKNOWN, Code.MALFORMED}


@in_event_loop
async def test_it_is_reopened_in_a_loop_as_well(service: Answering, broker: str) -> None:
    late = Late()
    with running_fake_service(broker, late, wire_result(service)), keyed_client(broker) as client:
        batch = left_unfinished(client)
        async with asking_in_a_loop(broker, key=dump_private_key(KEY)) as other:
            again = await other.batch(batch)
            assert again.remaining == 10
            assert len([answer async for answer in _first(again.as_completed(5), 10)]) == 10
            with pytest.raises(NoAnswer, match="the service has not decided"):
                [answer async for answer in again.results(0.2)]
            late.come.set()
            client.flush(10)
            assert [answer.key async for answer in again] == KEYS[5:10] + KEYS[15:]
            with pytest.raises(Refused):
                await other.batch("0199a000-0000-7000-8000-000000000000")


async def _first(answers: Any, count: int) -> Any:
    for _ in range(count):
        yield await anext(answers)
