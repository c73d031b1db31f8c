"""Measures the rate of webhooks, and the time from the commit to the receipt."""

import math
from collections.abc import Sequence
from itertools import chain, repeat
from statistics import median, quantiles
from typing import NamedTuple

import httpx
from sqlalchemy import func, select, update

from bench.comparison import Spread, alternate, compare, elapsed_seconds
from bench.metrics import Measurements
from bench.service import measure_on_both
from bench.webhooks.service import Endpoint, WebhookService, running_service
from models import Delivery
from tests.support.servers.waiting import wait_until
from worker import clock
from worker.base.database_engine import read_transaction, write_transaction

_GOOD: list[Endpoint] = [(f"tenant{n % 4}", f"hook{n}") for n in range(20)]
_ALONE: Endpoint = ("mixed", "good")
# Half of the dead ones refuse connections, the others accept them and never respond.
_DEAD: dict[Endpoint, float | None] = {
    ("mixed", f"dead{n}"): None if n % 2 else math.inf for n in range(50)
}
_SLOW: dict[Endpoint, float | None] = {("mixed", f"slow{n}"): 5.0 for n in range(10)}
_WEBHOOKS = 2_000
_ROUNDS = 5
_RATE, _SAMPLES = 50, 1_000
_TIMEOUT = 120  # seconds


def measure() -> Measurements:
    """Measure both databases."""
    return measure_on_both(_measure)


def _measure(database_url: str | None) -> Measurements:
    delays = dict[Endpoint, float | None](dict.fromkeys((*_GOOD, _ALONE), 0)) | _DEAD | _SLOW
    with running_service(database_url, delays) as service:
        rates = _measure_rate(service)
        samples = [_latencies(service, _GOOD, _RATE, _SAMPLES) for _ in range(3)]
        beside = _measure_beside(service)
    return {
        **rates,
        "webhook_ms": Spread(median(each) for each in samples).map(_milliseconds),
        "webhook_p95_ms": Spread(map(_p95, samples)).map(_milliseconds),
        "webhook_p95_beside_dead": beside,
    }


class _Run(NamedTuple):
    """The seconds in which all webhooks were delivered, and the CPU seconds of both sides."""

    seconds: float
    worker_cpu: float
    receiver_cpu: float


def _measure_rate(service: WebhookService) -> Measurements:
    """Send the same webhooks in each round, and as many bare POSTs after it."""
    _issue(service, _GOOD, _WEBHOOKS, None)
    _wait_until_delivered(service)
    body = service.receiver.ask("report")["body"]
    rounds = alternate(lambda: _deliver(service), lambda: _post(service, body), _ROUNDS)
    comparison = compare((run.seconds, seconds) for run, seconds in rounds)
    return {
        "webhooks_per_second": comparison.ours.map(lambda seconds: _WEBHOOKS / seconds),
        "webhooks_vs_httpx": comparison.ratio,
        "webhook_cpu_us": Spread(run.worker_cpu for run, _ in rounds).map(_each),
        "webhook_receiver_cpu_us": Spread(run.receiver_cpu for run, _ in rounds).map(_each),
    }


def _deliver(service: WebhookService) -> _Run:
    """Make all webhooks due again, and deliver them."""
    worker_cpu, receiver_cpu = service.delivery_cpu(), service.receiver.ask("report")["cpu"]
    values = {"state": "pending", "attempts": 0, "next_attempt_at": clock.now()}
    with write_transaction(service.engine) as connection:
        connection.execute(update(Delivery).values(values))
    start = clock.now()
    _issue(service, _GOOD, 0, None)
    _wait_until_delivered(service)
    report = service.receiver.ask("report")
    if report["count"] != _WEBHOOKS:
        raise RuntimeError("webhooks are missing, or were sent twice")
    with read_transaction(service.engine) as connection:
        times = list(connection.scalars(select(Delivery.finished_at)))
    seconds = max((time - start).total_seconds() for time in times if time is not None)
    return _Run(seconds, service.delivery_cpu() - worker_cpu, report["cpu"] - receiver_cpu)


def _post(service: WebhookService, body: str) -> float:
    """Return the seconds that as many bare POSTs of a body take."""
    urls = [service.urls[key] for key in _GOOD]
    with httpx.Client(verify=service.tls) as client:

        def post_all() -> None:
            for number in range(_WEBHOOKS):
                client.post(urls[number % len(urls)], content=body)

        return elapsed_seconds(post_all)


def _measure_beside(service: WebhookService) -> float:
    """Return the good endpoint's p95 beside the others as a multiple of that without them."""
    alone = _latencies(service, [_ALONE], _RATE / 2, _SAMPLES // 2)
    turns = list(chain.from_iterable(zip(repeat(_ALONE), (*_DEAD, *_SLOW), strict=False)))
    return _p95(_latencies(service, turns, _RATE, _SAMPLES)) / _p95(alone)


def _latencies(
    service: WebhookService, endpoints: Sequence[Endpoint], rate: float, count: int
) -> list[float]:
    """Issue requests in turns of endpoints; return the latencies of those that respond at once."""
    service.receiver.ask("report")
    issued = _issue(service, endpoints, count, rate)
    prompt = {name for _, name in (*_GOOD, _ALONE)}
    commits = {key: time for key, name, time in issued if name in prompt}
    receipts: dict[str, float] = {}

    def are_received() -> bool:
        receipts.update(service.receiver.ask("report")["times"])
        return commits.keys() <= receipts.keys()

    wait_until(are_received, _TIMEOUT, "all webhooks are received")
    return [receipts[key] - time for key, time in commits.items()]


def _issue(
    service: WebhookService, endpoints: Sequence[Endpoint], count: int, rate: float | None
) -> list[tuple[str, str, float]]:
    request = {"endpoints": endpoints, "count": count, "rate": rate}
    issued: list[tuple[str, str, float]] = service.issuer.ask(request)
    return issued


def _wait_until_delivered(service: WebhookService) -> None:
    pending = select(func.count()).where(Delivery.state == "pending")

    def is_delivered() -> bool:
        with read_transaction(service.engine) as connection:
            return connection.scalar(pending) == 0

    wait_until(is_delivered, _TIMEOUT, "all webhooks are delivered")


def _p95(latencies: Sequence[float]) -> float:
    return quantiles(latencies, n=20)[-1]


def _milliseconds(seconds: float) -> float:
    return seconds * 1e3


def _each(seconds: float) -> float:
    return seconds / _WEBHOOKS * 1e6
