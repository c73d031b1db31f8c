"""AsyncClient asks as Client does, and is answered as it is."""

import asyncio
from typing import Any

import pytest

from tests.support.fakes.fake_service import running_fake_service, stored_results
from tests.support.servers.event_loop import async_client, in_event_loop
from valetkey import Code, Item, NoAnswer, Refused

KEYS = [f"k/{number}" for number in range(50)]


@in_event_loop
async def test_a_single_grant_is_awaited(broker: str) -> None:
    with running_fake_service(broker):
        async with async_client(broker) as client:
            handle = client.download("reports", "a.pdf", expires_in=60)
            grant = await handle
            assert (grant.id, grant.key, grant.method) == (f"{handle.id}.0", "a.pdf", "GET")
            assert await handle.result(0) is grant


@in_event_loop
async def test_every_kind_is_asked_for(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    with running_fake_service(broker) as service:
        async with async_client(broker) as client:
            assert (await client.upload("inbox", "a.png", max_size=5)).method == "POST"
            assert (await client.put("inbox", "a.png", size=5)).method == "PUT"
            upload = client.multipart("inbox", "a", size=40 * 1024**2)
            parts = [part async for part in await upload.parts(2, 3)]
            puts = client.put_many("inbox", [Item(key="a", size=7)])
            assert [answer.key async for answer in puts] == ["a"]
    assert [part.part for part in parts] == [2, 3]
    kinds = [message["grant"]["kind"] for _, message in service.arrived]
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
async def test_many_coroutines_share_one_client(broker: str) -> None:
    def mine(message: dict[str, Any], arrival: int) -> Any:
        return "lose" if arrival == 1 and message["items"][0]["key"].endswith("7") else "twice"

    with running_fake_service(broker, mine):
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=1)
            singles = asyncio.gather(*(client.download("reports", f"s/{n}") for n in range(100)))
            assert [answer.key async for answer in batch] == KEYS
            assert [grant.key for grant in await singles] == [f"s/{n}" for n in range(100)]
    assert (batch.issued, batch.refused, batch.remaining) == (50, 0, 0)


@in_event_loop
async def test_what_is_lost_fails_or_comes_twice_is_answered_once(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 0.5)

    def as_it_is_called(message: dict[str, Any], arrival: int) -> Any:
        key = message["items"][0]["key"]
        return key if arrival < 3 or key == "unannounced" else "answer"

    faults = ["lose", "fail", "garble", "unannounced", "twice"]
    with running_fake_service(broker, as_it_is_called) as service:
        async with async_client(broker) as client:
            handles = [client.download("reports", fault) for fault in faults]
            assert [(await handle).key for handle in handles] == faults
            assert [handle.batch.issued for handle in handles] == [1] * len(faults)
    assert [service.arrivals[f"{handle.id}.0"] for handle in handles[:3]] == [3, 3, 3]


@in_event_loop
async def test_a_failing_worker_is_named_and_its_words_are_not_kept(broker: str) -> None:
    def once(_message: dict[str, Any], arrival: int) -> Any:
        return "fail" if arrival == 1 else "lose"

    with running_fake_service(broker, once):
        async with async_client(broker) as client:
            with pytest.raises(NoAnswer, match="the worker's log says why"):
                await client.download("reports", "a.pdf").result(2)
    assert stored_results(broker) == {}
