"""Batches of an AsyncClient are read in either order, by one or several, and starve nobody."""

import asyncio
from itertools import chain
from typing import Any

import pytest

from tests.support.fakes.fake_service import refuse_outcome, running_fake_service
from tests.support.servers.event_loop import async_client, in_event_loop
from valetkey import Code

KEYS = [f"k/{number}" for number in range(50)]


@in_event_loop
async def test_a_batch_that_is_read_as_it_comes_lets_others_have_their_turn(broker: str) -> None:
    with running_fake_service(broker):
        async with async_client(broker) as client:
            batch = client.download_many("reports", map(str, range(400)), total=400, chunk_size=1)
            answers = aiter(batch)
            await anext(answers)
            single = asyncio.ensure_future(client.download("reports", "a.pdf").result())
            read = 1
            while not single.done():
                await anext(answers)
                read += 1
            assert read < 200
            assert len([answer async for answer in answers]) == 400 - read


@in_event_loop
async def test_answers_come_in_order_or_as_they_are_completed(broker: str) -> None:
    def first_chunk_last(message: dict[str, Any], arrival: int) -> Any:
        return "lose" if message["chunk"] == 0 and arrival < 3 else "answer"

    with running_fake_service(broker, first_chunk_last):
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=5)
            assert [answer.key async for answer in batch] == KEYS
            batch = client.download_many("reports", KEYS, chunk_size=5)
            keys = [answer.key async for answer in batch.as_completed()]
    assert sorted(keys) == sorted(KEYS)
    assert keys[-5:] == KEYS[:5]


@in_event_loop
async def test_several_readers_of_a_batch_get_each_answer_once(broker: str) -> None:
    with running_fake_service(broker):
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=5)

            async def read() -> list[str]:
                return [answer.key async for answer in batch]

            found = await asyncio.gather(read(), read(), read())
    assert sorted(chain.from_iterable(found)) == sorted(KEYS)


@in_event_loop
async def test_a_batch_refused_as_a_whole_refuses_every_item(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    with running_fake_service(broker, decide=refuse_outcome) as service:
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=1)
            answers = [answer async for answer in batch]
    assert [answer.key for answer in answers] == KEYS
    assert {answer.code for answer in answers} == {Code.QUOTA_EXCEEDED}
    assert (batch.refusal.code, batch.refused) == (Code.QUOTA_EXCEEDED, 50)
    assert len(service.arrived) < 50
