"""Batches of an AsyncClient, read in either order by one or several tasks."""

import asyncio
from itertools import chain
from typing import Any

import pytest

from tests.support.fakes.fake_service import refuse_outcome, running_fake_service
from tests.support.servers.event_loop import async_client, in_event_loop
from valetkey import Code

KEYS = [f"k/{number}" for number in range(50)]


@in_event_loop
async def test_a_batch_that_is_read_quickly_does_not_starve_other_requests(broker: str) -> None:
    with running_fake_service(broker):
        async with async_client(broker) as client:
            batch = client.download_many("reports", map(str, range(400)), total=400, chunk_size=1)
            results = aiter(batch)
            await anext(results)
            single = asyncio.ensure_future(client.download("reports", "a.pdf").result())
            count = 1
            while not single.done():
                await anext(results)
                count += 1
            assert count < 200
            assert len([result async for result in results]) == 400 - count


@in_event_loop
async def test_results_come_in_order_or_as_completed(broker: str) -> None:
    def first_chunk_last(message: dict[str, Any], arrival: int) -> Any:
        return "lose" if message["chunk"] == 0 and arrival < 3 else "answer"

    with running_fake_service(broker, first_chunk_last):
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=5)
            assert [result.key async for result in batch] == KEYS
            batch = client.download_many("reports", KEYS, chunk_size=5)
            keys = [result.key async for result in batch.as_completed()]
    assert sorted(keys) == sorted(KEYS)
    assert keys[-5:] == KEYS[:5]


@in_event_loop
async def test_several_readers_of_a_batch_get_each_result_once(broker: str) -> None:
    with running_fake_service(broker):
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=5)

            async def read() -> list[str]:
                return [result.key async for result in batch]

            keys = await asyncio.gather(read(), read(), read())
    assert sorted(chain.from_iterable(keys)) == sorted(KEYS)


@in_event_loop
async def test_a_batch_refused_as_a_whole_refuses_every_item(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    with running_fake_service(broker, decide=refuse_outcome) as service:
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=1)
            results = [result async for result in batch]
    assert [result.key for result in results] == KEYS
    assert {result.code for result in results} == {Code.QUOTA_EXCEEDED}
    assert (batch.refusal.code, batch.refused) == (Code.QUOTA_EXCEEDED, 50)
    assert len(service.received) < 50
