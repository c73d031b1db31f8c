"""The latency and rate of single links, compared with a Celery task that does nothing."""

from collections import deque
from statistics import median

from bench import service
from bench.comparison import alternate, compare, elapsed_seconds, inverse, milliseconds
from bench.metrics import Measurements
from bench.singles.noop_worker import SendRequest, WaitForResult, noop_worker
from valetkey import Client

ROUNDS = 9
_SEQUENTIAL_REQUESTS = 200  # in each round of latency
_CONCURRENT_REQUESTS = 1_000  # in each round of rate
_MAX_IN_FLIGHT = 32


def measure() -> Measurements:
    """Measure both databases."""
    return service.measure_on_both(_measure)


def _measure(database_url: str | None) -> Measurements:
    """Measure latency, then rate, alternating with the no-op task."""
    with (
        service.running_service(database_url) as stack,
        noop_worker(stack) as send_noop,
        service.signing_client(stack) as client,
    ):
        send_link = link_sender(client)
        for send in (send_link, send_noop):
            latency(send)  # warm up connections and imports on both sides
        latencies = compare(
            alternate(lambda: latency(send_link), lambda: latency(send_noop), ROUNDS)
        )
        rates = compare(alternate(lambda: _rate(send_link), lambda: _rate(send_noop), ROUNDS))
    return {
        "single_latency_vs_noop": latencies.ratio.map(inverse),
        "single_rate_vs_noop": rates.ratio.map(inverse),
        "single_latency_ms": latencies.ours.map(milliseconds),
        "noop_latency_ms": latencies.theirs.map(milliseconds),
        "singles_per_second": rates.ours,
        "noops_per_second": rates.theirs,
    }


def link_sender(client: Client) -> SendRequest:
    """Return a function that requests one link from the client."""
    return lambda: client.download(service.BUCKET, "2026/11/u-1.pdf").result


def latency(send: SendRequest) -> float:
    """Return the median seconds from sending a request to its result, one request at a time."""
    return median(elapsed_seconds(lambda: send_and_wait(send)) for _ in range(_SEQUENTIAL_REQUESTS))


def send_and_wait(send: SendRequest) -> None:
    """Send one request and wait for its result."""
    wait = send()
    wait()


def _rate(send: SendRequest) -> float:
    return _CONCURRENT_REQUESTS / elapsed_seconds(
        lambda: send_concurrently(send, _CONCURRENT_REQUESTS, _MAX_IN_FLIGHT)
    )


def send_concurrently(send: SendRequest, requests: int, max_in_flight: int) -> None:
    """Send requests and wait for all results, with at most so many requests under way."""
    in_flight: deque[WaitForResult] = deque()
    for _ in range(requests):
        if len(in_flight) == max_in_flight:
            in_flight.popleft()()
        in_flight.append(send())
    for wait in in_flight:
        wait()
