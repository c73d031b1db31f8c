"""AsyncClient reads no further ahead than its window, and says what is missing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.client.test_client_asks import QUOTA, told
from tests.support.fakes.fake_service import running_fake_service
from tests.support.servers.event_loop import async_client, in_event_loop, wait_until_async
from valetkey import AsyncClient, BrokerUnreachable, Grant, NoAnswer, NotConfigured, Refusal
from valetkey.delivery.retransmit import DEFAULT_WINDOW

KEYS = [f"k/{number}" for number in range(50)]
NOWHERE = "redis://:s3cret@127.0.0.1:1/0"  # no one listens on port 1


@in_event_loop
async def test_no_more_than_a_window_is_sent_or_read_before_its_reader_comes(broker: str) -> None:
    taken: list[str] = []

    async def keys() -> AsyncIterator[str]:
        for key in KEYS:
            await asyncio.sleep(0)
            taken.append(key)
            yield key

    def never(message: dict[str, Any], _arrival: int) -> Any:
        return "lose" if message["items"][0]["key"] == "never" else "answer"

    with running_fake_service(broker, never) as service:
        async with async_client(broker) as client:
            batch = client.download_many("reports", keys(), total=50, chunk_size=1)
            never_answered = asyncio.ensure_future(client.download("reports", "never").result(1))
            await wait_until_async(lambda: len(service.arrivals) > DEFAULT_WINDOW)
            with pytest.raises(NoAnswer):
                await never_answered
            assert len(taken) == len(service.arrivals) - 1 == DEFAULT_WINDOW
            assert [answer.key async for answer in batch] == KEYS == taken
            assert batch.issued == 50


@in_event_loop
async def test_a_slow_iterable_keeps_nobody_waiting(broker: str) -> None:
    goes_on = asyncio.Event()

    async def keys() -> AsyncIterator[str]:
        yield "a"
        await goes_on.wait()
        yield "b"

    with running_fake_service(broker):
        async with async_client(broker) as client:
            batch = client.download_many("reports", keys(), total=2, chunk_size=1)
            answers = aiter(batch)
            assert (await anext(answers)).key == "a"
            assert (await client.download("reports", "c").result(5)).key == "c"
            with pytest.raises(NoAnswer, match="to 1 of 2 items"):
                await anext(batch.results(0.1))
            goes_on.set()
            assert [answer.key async for answer in batch] == ["b"]


async def _counting(count: int) -> AsyncIterator[str]:
    for number in range(count):
        yield str(number)


def _failing() -> Iterator[str]:
    yield "a"
    raise LookupError


async def _failing_later() -> AsyncIterator[str]:
    yield "a"
    await asyncio.sleep(0)
    raise TimeoutError


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (lambda: _counting(3), ValueError),
        (lambda: _counting(1), ValueError),
        (_failing, LookupError),
        (_failing_later, TimeoutError),
    ],
    ids=["too many", "too few", "failing", "failing later"],
)
@in_event_loop
async def test_what_its_iterable_raises_is_raised_to_its_reader_alone(
    broker: str, keys: Callable[[], Any], error: type[Exception]
) -> None:
    with running_fake_service(broker):
        async with async_client(broker) as client:
            batch = client.download_many("reports", keys(), total=2, chunk_size=1)
            assert await client.download("reports", "a.pdf")
            with pytest.raises(error):
                [answer async for answer in batch]
            with pytest.raises(RuntimeError):
                [answer async for answer in batch]


@in_event_loop
async def test_items_that_wait_for_what_is_cancelled_fail_alone(broker: str) -> None:
    source = asyncio.ensure_future(asyncio.sleep(60))

    async def keys() -> AsyncIterator[str]:
        yield "a"
        await source
        yield "b"

    with running_fake_service(broker):
        async with async_client(broker) as client:
            cut = client.download_many("reports", keys(), total=2, chunk_size=1)
            whole = client.download_many("reports", KEYS, chunk_size=1)
            assert (await anext(aiter(cut))).key == "a"
            source.cancel()
            with pytest.raises(RuntimeError, match="what the items wait for was cancelled"):
                await anext(aiter(cut))
            assert [answer.key async for answer in whole] == KEYS


@in_event_loop
async def test_items_that_come_asynchronously_must_be_counted(broker: str) -> None:
    async with async_client(broker) as client:
        with pytest.raises(TypeError, match="need total="):
            client.download_many("reports", _counting(3))
        with pytest.raises(TypeError, match="need max_size="):
            client.put_many("reports", _counting(3), total=3)
        with pytest.raises(TypeError, match="download has no option 'acl'"):
            client.download("reports", "a", acl="private")


ASKS: list[tuple[str, Callable[[Any], Awaitable[Any]]]] = [
    ("usage", lambda client: client.usage()),
    ("cancel", lambda client: client.cancel("0199a000-0000-7000-8000-000000000000")),
    ("explain", lambda client: client.explain().download("reports", "a")),
    ("explain", lambda client: client.explain().download_many("b", _counting(3), total=3)),
]


@in_event_loop
async def test_what_is_only_asked_is_asked_until_it_is_answered(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 0.5)
    with running_fake_service(broker, lambda _, n: "lose" if n < 3 else "answer", told) as service:
        async with async_client(broker) as client:
            usage, cancelled, *explained = await asyncio.gather(*(ask(client) for _, ask in ASKS))
    assert [quota.limit for quota in usage] == [QUOTA["limit"]]
    assert (cancelled.issued, cancelled.released) == (3, 47)
    assert [one.decision for one in explained] == ["issue", "issue"]
    assert set(service.arrivals.values()) == {3}
    assert {message["ask"] for _, message in service.arrived} == {name for name, _ in ASKS}


@in_event_loop
async def test_of_a_cancelled_handle_nothing_more_is_sent(broker: str) -> None:
    with running_fake_service(broker, decide=told):
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=1)
            first = await anext(aiter(batch))
            await client.cancel(batch)
            answers = [first, *[answer async for answer in batch]]
            single = client.download("reports", "a")
            assert (await client.cancel(single)).batch == single.id
    assert [answer.key for answer in answers] == KEYS
    assert [type(answer) for answer in (first, answers[-1])] == [Grant, Refusal]


@in_event_loop
async def test_a_flush_waits_for_every_answer_and_keeps_them(broker: str) -> None:
    with running_fake_service(broker, lambda _, arrival: "lose" if arrival == 1 else "answer"):
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=1)
            handle = client.download("reports", "a.pdf")
            await client.flush(20)
            assert (batch.issued, (await handle.result(0)).key) == (50, "a.pdf")
    assert [answer.key async for answer in batch] == KEYS  # closed by now


@in_event_loop
async def test_leaving_the_block_waits_for_every_answer_or_says_that_some_are_missing(
    broker: str,
) -> None:
    with running_fake_service(broker) as service:
        async with AsyncClient(broker, tenant="acme") as client:
            client.download_many("reports", KEYS, chunk_size=1)
    assert len(service.arrivals) == 50
    with pytest.raises(NoAnswer, match=r"not all was answered within 0.2 s"):
        async with AsyncClient(broker, tenant="acme", exit_timeout=0.2) as client:
            client.download("reports", "a.pdf")


@in_event_loop
async def test_nobody_waits_beyond_the_deadline(broker: str) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=1.2)
    async with asyncio.timeout(30), async_client(broker) as client:
        with pytest.raises(NoAnswer):
            await client.download("reports", "a.pdf", deadline=deadline).result(None)
        assert datetime.now(UTC) >= deadline
        await client.flush(0)  # it was given up


@in_event_loop
async def test_what_fails_unheard_is_raised_by_the_flush(broker: str) -> None:
    async with asyncio.timeout(5), async_client(broker) as client:
        await client.flush()  # of nothing
        client.download_many("reports", _failing(), total=2, chunk_size=1)
        with pytest.raises(LookupError):
            await client.flush()
        await client.flush()  # once is enough


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        ((NOWHERE,), r"no broker answers at redis://127.0.0.1:1/0"),
        (("amqp://user:s3cret@127.0.0.1:1//",), r"no broker answers at amqp://127.0.0.1:1//"),
        ((None, NOWHERE), r"no result store answers at redis://127.0.0.1:1/0"),
    ],
    ids=["broker", "amqp", "store"],
)
@in_event_loop
async def test_a_server_that_is_down_is_named_without_its_password(
    broker: str, urls: tuple[str | None, ...], said: str
) -> None:
    first, *rest = urls
    async with async_client(first or broker, *(rest or [broker])) as client:
        handle = client.download("reports", "a.pdf")
        for _ in range(2):  # to await it again is to try again
            with pytest.raises(BrokerUnreachable, match=said) as caught:
                await handle
            assert "s3cret" not in str(caught.value)


def test_a_client_is_configured_as_a_blocking_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    with pytest.raises(NotConfigured):
        AsyncClient()
