"""AsyncClient sends the requests of Client, and returns the same results."""

import asyncio
from itertools import chain
from typing import Any

import pytest

from tests.support.fakes.fake_service import running_fake_service
from tests.support.servers.event_loop import async_client, in_event_loop
from valetkey import Code, Item, Refused

KEYS = [f"k/{number}" for number in range(50)]


@in_event_loop
async def test_every_kind_is_requested(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    with running_fake_service(broker) as service:
        async with async_client(broker) as client:
            assert (await client.upload("inbox", "a.png", max_size=5)).method == "POST"
            assert (await client.put("inbox", "a.png", size=5)).method == "PUT"
            upload = client.multipart("inbox", "a", size=40 * 1024**2)
            parts = [part async for part in await upload.parts(2, 3)]
            puts = client.put_many("inbox", [Item(key="a", size=7)])
            assert [result.key async for result in puts] == ["a"]
    assert [part.part for part in parts] == [2, 3]
    kinds = [message["grant"]["kind"] for _, message in service.received]
    assert kinds == ["upload", "put", "multipart", "parts", "put"]


@in_event_loop
async def test_refusals_are_raised_with_their_codes(broker: str) -> None:
    with running_fake_service(broker):
        async with async_client(broker) as client:
            handle = client.download("reports", "no/a.pdf")
            for _ in range(2):
                with pytest.raises(Refused) as caught:
                    await handle
                assert caught.value.refusal.code is Code.KEY_OUTSIDE_PREFIX
            with pytest.raises(Refused):
                await client.download("reports", "a.pdf", expires_in=0)


@in_event_loop
async def test_a_message_that_is_lost_fails_or_is_doubled_has_one_result(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 0.5)

    def plan_of_key(message: dict[str, Any], arrival: int) -> Any:
        key = message["items"][0]["key"]
        return key if arrival < 3 or key == "unannounced" else "answer"

    faults = ["lose", "fail", "garble", "unannounced", "twice"]
    with running_fake_service(broker, plan_of_key) as service:
        async with async_client(broker) as client:
            handles = [client.download("reports", fault) for fault in faults]
            assert [(await handle).key for handle in handles] == faults
            assert [handle.batch.issued for handle in handles] == [1] * len(faults)
    assert [service.arrivals[f"{handle.id}.0"] for handle in handles[:3]] == [3, 3, 3]


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
                return [result.key async for result in batch.results()]

            keys = await asyncio.gather(read(), read(), read())
    assert sorted(chain.from_iterable(keys)) == sorted(KEYS)
