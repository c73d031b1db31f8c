"""AsyncClient reads no further ahead than its window, and reports missing results."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.integration.client.test_client_asks import QUOTA, reply_to
from tests.support.fakes.fake_service import running_fake_service
from tests.support.servers.event_loop import async_client, in_event_loop, wait_until_async
from valetkey import AsyncClient, Grant, NoAnswer, Refusal
from valetkey.delivery.retransmit import DEFAULT_WINDOW

KEYS = [f"k/{number}" for number in range(50)]


@in_event_loop
async def test_no_more_than_a_window_is_sent_before_results_are_read(broker: str) -> None:
    keys_read: list[str] = []

    async def keys() -> AsyncIterator[str]:
        for key in KEYS:
            await asyncio.sleep(0)
            keys_read.append(key)
            yield key

    def lose_key_named_never(message: dict[str, Any], _arrival: int) -> Any:
        return "lose" if message["items"][0]["key"] == "never" else "answer"

    with running_fake_service(broker, lose_key_named_never) as service:
        async with async_client(broker) as client:
            batch = client.download_many("reports", keys(), total=50, chunk_size=1)
            never_answered = asyncio.ensure_future(client.download("reports", "never").result(1))
            await wait_until_async(lambda: len(service.arrivals) > DEFAULT_WINDOW)
            with pytest.raises(NoAnswer):
                await never_answered
            assert len(keys_read) == len(service.arrivals) - 1 == DEFAULT_WINDOW
            assert [result.key async for result in batch] == KEYS == keys_read
            assert batch.issued == 50


@in_event_loop
async def test_a_slow_iterable_does_not_delay_other_requests(broker: str) -> None:
    released = asyncio.Event()

    async def keys() -> AsyncIterator[str]:
        yield "a"
        await released.wait()
        yield "b"

    with running_fake_service(broker):
        async with async_client(broker) as client:
            batch = client.download_many("reports", keys(), total=2, chunk_size=1)
            results = batch.results()
            assert (await anext(results)).key == "a"
            assert (await client.download("reports", "c").result(5)).key == "c"
            with pytest.raises(NoAnswer, match="to 1 of 2 items"):
                await anext(batch.results(0.1))
            released.set()
            assert [result.key async for result in batch.results()] == ["b"]


async def _numbered_keys(count: int) -> AsyncIterator[str]:
    for number in range(count):
        yield str(number)


def _keys_then_error() -> Iterator[str]:
    yield "a"
    raise LookupError


async def _keys_then_timeout() -> AsyncIterator[str]:
    yield "a"
    await asyncio.sleep(0)
    raise TimeoutError


async def _keys_then_none() -> AsyncIterator[Any]:
    yield "a"
    yield None


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (lambda: _numbered_keys(3), ValueError),
        (lambda: _numbered_keys(1), ValueError),
        (_keys_then_error, LookupError),
        (_keys_then_timeout, TimeoutError),
        (_keys_then_none, TypeError),
        (lambda: iter(["a", None]), TypeError),
    ],
    ids=["too many", "too few", "failing", "failing later", "of another type", "not async"],
)
@in_event_loop
async def test_an_error_of_the_iterable_is_raised_to_the_reader_of_its_batch_only(
    broker: str, keys: Callable[[], Any], error: type[Exception]
) -> None:
    with running_fake_service(broker):
        async with async_client(broker) as client:
            batch = client.download_many("reports", keys(), total=2, chunk_size=1)
            assert await client.download("reports", "a.pdf")
            with pytest.raises(error):
                [result async for result in batch]
            with pytest.raises(RuntimeError):
                [result async for result in batch]


@in_event_loop
async def test_items_that_wait_for_a_cancelled_task_fail_only_their_batch(broker: str) -> None:
    source = asyncio.ensure_future(asyncio.sleep(60))

    async def keys() -> AsyncIterator[str]:
        yield "a"
        await source
        yield "b"

    with running_fake_service(broker):
        async with async_client(broker) as client:
            failing_batch = client.download_many("reports", keys(), total=2, chunk_size=1)
            other_batch = client.download_many("reports", KEYS, chunk_size=1)
            assert (await anext(failing_batch.results())).key == "a"
            source.cancel()
            with pytest.raises(
                RuntimeError, match="the task that the items wait for was cancelled"
            ):
                await anext(failing_batch.results())
            assert [result.key async for result in other_batch] == KEYS


@in_event_loop
async def test_an_async_iterable_needs_a_total(broker: str) -> None:
    async with async_client(broker) as client:
        with pytest.raises(TypeError, match="need total="):
            client.download_many("reports", _numbered_keys(3))
        with pytest.raises(TypeError, match="need max_size="):
            client.put_many("reports", _numbered_keys(3), total=3)


ASKS: list[tuple[str, Callable[[Any], Awaitable[Any]]]] = [
    ("usage", lambda client: client.usage()),
    ("cancel", lambda client: client.cancel("0199a000-0000-7000-8000-000000000000")),
    ("explain", lambda client: client.explain().download("reports", "a")),
    ("explain", lambda client: client.explain().download_many("b", _numbered_keys(3), total=3)),
]


@in_event_loop
async def test_a_request_with_one_reply_is_sent_until_it_is_answered(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 0.5)
    with running_fake_service(
        broker, lambda _, n: "lose" if n < 3 else "answer", reply_to
    ) as service:
        async with async_client(broker) as client:
            usage, cancelled, *explained = await asyncio.gather(*(ask(client) for _, ask in ASKS))
    assert [quota.limit for quota in usage] == [QUOTA["limit"]]
    assert (cancelled.issued, cancelled.released) == (3, 47)
    assert [explanation.decision for explanation in explained] == ["issue", "issue"]
    assert set(service.arrivals.values()) == {3}
    assert {message["ask"] for _, message in service.received} == {name for name, _ in ASKS}


@in_event_loop
async def test_a_cancelled_handle_sends_no_more_chunks(broker: str) -> None:
    with running_fake_service(broker, decide=reply_to) as service:
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=1)
            await anext(aiter(batch))
            await client.cancel(batch)
            results = [result async for result in batch]
            assert len(service.arrivals) - 1 == batch.issued < len(KEYS)
            single = client.download("reports", "a")
            assert (await client.cancel(single)).batch == single.id
    assert [result.key for result in results] == KEYS
    assert [type(result) for result in (results[0], results[-1])] == [Grant, Refusal]


@in_event_loop
async def test_a_flush_waits_for_every_result_and_keeps_them(broker: str) -> None:
    with running_fake_service(broker, lambda _, arrival: "lose" if arrival == 1 else "answer"):
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=1)
            handle = client.download("reports", "a.pdf")
            await client.flush(20)
            assert (batch.issued, (await handle.result(0)).key) == (50, "a.pdf")
    assert [result.key async for result in batch] == KEYS  # closed by now


@in_event_loop
async def test_leaving_the_block_waits_for_every_result_or_raises_no_answer(
    broker: str,
) -> None:
    with running_fake_service(broker) as service:
        async with AsyncClient(broker, tenant="acme") as client:
            client.download_many("reports", KEYS, chunk_size=1)
    assert len(service.arrivals) == 50
    with pytest.raises(NoAnswer, match=r"not every request was answered within 0.2 s"):
        async with AsyncClient(broker, tenant="acme", exit_timeout=0.2) as client:
            client.download("reports", "a.pdf")


@in_event_loop
async def test_flush_raises_the_error_of_a_request_that_nobody_awaited(broker: str) -> None:
    async with asyncio.timeout(5), async_client(broker) as client:
        await client.flush()  # of nothing
        client.download_many("reports", _keys_then_error(), total=2, chunk_size=1)
        with pytest.raises(LookupError):
            await client.flush()
        await client.flush()  # once is enough
