"""Requests of one kind from this process: the load that costs are measured under."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter, process_time
from typing import NamedTuple

from bench import service
from bench.capacity.costs import CHUNK_ITEMS
from bench.singles.async_links import request_links
from bench.singles.single_link import link_sender, send_concurrently
from valetkey import Client, Grant
from worker.dev.stack import Stack

_SEPARATE, _COMPANY = 32, 256  # requests under way

Send = Callable[[int], None]
"""A function that sends so many requests, and returns when all have their results."""


class Sent(NamedTuple):
    """The seconds that requests took, and the CPU seconds of the process that sent them."""

    seconds: float
    cpu: float


def timed(send: Send, requests: int) -> Sent:
    """Send requests, and return what that took."""
    start, cpu = perf_counter(), process_time()
    send(requests)
    return Sent(perf_counter() - start, process_time() - cpu)


@contextmanager
def senders(stack: Stack) -> Iterator[Mapping[str, Send]]:
    """Yield a sender for each kind of request; a request of "chunk" is a chunk of a batch."""
    with service.signing_client(stack) as client, asyncio.Runner() as runner:
        async_client = service.async_client(stack)
        yield {
            "single": lambda count: send_concurrently(link_sender(client), count, _SEPARATE),
            "company": lambda count: runner.run(request_links(async_client, count, _COMPANY)),
            "chunk": lambda count: request_chunks(client, count),
        }
        runner.run(async_client.close())


def request_chunks(client: Client, chunks: int) -> None:
    """Request a batch of so many full chunks, and read all links."""
    links = chunks * CHUNK_ITEMS
    keys = (f"2026/11/u-{number}.pdf" for number in range(links))
    granted = sum(
        isinstance(item, Grant) for item in client.download_many(service.BUCKET, keys, total=links)
    )
    if granted != links:
        raise RuntimeError("a link was refused, so the measurement is not valid")
