"""Single links from one AsyncClient that many coroutines share, compared with the no-op task.

Both sides have as many requests under way. On ours, each coroutine requests one link after another;
on the other, one process sends tasks and reads their results, as users of Celery do.
"""

import asyncio

from bench import service
from bench.comparison import Comparison, alternate, compare, elapsed_seconds, inverse
from bench.metrics import Measurements
from bench.singles.noop_worker import SendRequest, noop_worker
from bench.singles.single_link import send_concurrently
from valetkey import AsyncClient

ROUNDS = 9
IN_FLIGHT = (32, 256)
REQUESTS = 2_048  # in each round, on both sides


def measure(requests: int = REQUESTS, rounds: int = ROUNDS) -> Measurements:
    """Measure both databases."""
    return service.measure_on_both(lambda url: _measure(url, requests, rounds))


def _measure(database_url: str | None, requests: int, rounds: int) -> Measurements:
    measurements: Measurements = {}
    with (
        service.running_service(database_url) as stack,
        noop_worker(stack) as send_noop,
        asyncio.Runner() as runner,
    ):
        client = service.async_client(stack)
        for in_flight in IN_FLIGHT:
            rates = _compare(runner, client, send_noop, in_flight, requests, rounds)
            prefix = f"singles_async_{in_flight}"
            measurements[f"{prefix}_vs_noop"] = rates.ratio.map(inverse)
            measurements[f"{prefix}_per_second"] = rates.ours
            measurements[f"noops_{in_flight}_per_second"] = rates.theirs
        runner.run(client.close())
    return measurements


def _compare(  # noqa: PLR0913, PLR0917 - one for each part of the comparison
    runner: asyncio.Runner,
    client: AsyncClient,
    send_noop: SendRequest,
    in_flight: int,
    requests: int,
    rounds: int,
) -> Comparison:
    def measure_links() -> float:
        return requests / elapsed_seconds(
            lambda: runner.run(request_links(client, requests, in_flight))
        )

    def measure_noops() -> float:
        return requests / elapsed_seconds(lambda: send_concurrently(send_noop, requests, in_flight))

    measure_links()  # warm up connections and imports on both sides
    measure_noops()
    return compare(alternate(measure_links, measure_noops, rounds))


async def request_links(client: AsyncClient, requests: int, coroutines: int) -> None:
    """Request links, with as many under way as there are coroutines."""
    remaining = iter(range(requests))

    async def request_in_turn() -> None:
        for _ in remaining:
            await client.download(service.BUCKET, "2026/11/u-1.pdf")

    async with asyncio.TaskGroup() as group:
        for _ in range(coroutines):
            group.create_task(request_in_turn())
