"""Scrapes at the same time, of a service that is slow to read."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event, Lock

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric

from tests.support.servers.waiting import wait_until
from worker.doctor.metrics_command import ServiceCollector, Window
from worker.doctor.prober import Prober


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
