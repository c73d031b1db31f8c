"""Scrapes at the same time, of a service that is slow to read."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Lock
from typing import Any

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric

from tests.support.servers.waiting import wait_until
from worker.doctor import metrics_command
from worker.doctor.metrics_command import DATABASE, ServiceCollector
from worker.doctor.prober import Prober
from worker.shared.monitoring import Window


class CountedLock:
    """A lock that counts those who have asked for it."""

    def __init__(self) -> None:
        self.asked = 0
        self._lock = Lock()

    def __enter__(self) -> None:
        self.asked += 1
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_a_database_that_never_responds_is_down_and_up_again_once_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goes_on = Event()

    @contextmanager
    def open_frozen() -> Iterator[Any]:
        assert goes_on.wait(30)
        yield None

    def is_up() -> float:
        families = {family.name: family for family in collector.collect()}
        return families["valetkey_database_up"].samples[0].value

    monkeypatch.setattr(metrics_command, "SILENCE_LIMIT", 0.05)
    monkeypatch.setattr(metrics_command, "open_engine", open_frozen)
    monkeypatch.setattr(metrics_command, "check_database", lambda *_, **__: None)
    monkeypatch.setattr(ServiceCollector, "_read_database", lambda *_: iter(()))
    problems: list[str] = []
    collector = ServiceCollector(
        Window("1h", timedelta(hours=1)),
        lambda service, problem, _: problems.extend([str(problem)] * (service == DATABASE)),
        Prober(),
    )
    assert (is_up(), is_up()) == (0, 0)
    assert problems[-1].endswith("it does not respond in time")
    goes_on.set()
    wait_until(lambda: is_up() == 1)


def test_scrapes_that_wait_share_one_reading_that_began_after_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goes_on, lock = Event(), CountedLock()
    readings: list[Metric] = []

    def read_all(_: ServiceCollector) -> list[Metric]:
        readings.append(GaugeMetricFamily(f"reading_{len(readings)}", "A reading."))
        assert goes_on.wait(30)
        return readings[-1:]

    monkeypatch.setattr(ServiceCollector, "_read_all", read_all)
    collector = ServiceCollector(Window("1h", timedelta(hours=1)), lambda *_: None, Prober())
    monkeypatch.setattr(collector, "_lock", lock)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(lambda: list(collector.collect()))
        wait_until(lambda: len(readings) == 1)
        others = [pool.submit(lambda: list(collector.collect())) for _ in range(4)]
        wait_until(lambda: lock.asked == 5)
        goes_on.set()
        assert first.result() == readings[:1]
        assert [other.result() for other in others] == [readings[1:]] * 4
    assert list(collector.collect()) == readings[2:]
