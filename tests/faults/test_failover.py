"""Failovers of Redis by Sentinel under load: nothing is lost, doubled or charged wrongly.

docs/availability.md has figures of these tests.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.support.faults.comparison import Record, summarize
from tests.support.faults.producers import resending_producers
from tests.support.faults.run import RECOVERY_SECONDS, Load, Row, report, running_load
from tests.support.faults.service import faulty_service
from tests.support.servers.sentinels import SentinelGroup

pytestmark = pytest.mark.timeout(300)
MAX_GAP = 20.0  # seconds without any answer

Failover = Callable[[SentinelGroup, int, Load], None]
"""Takes the primary away, whose port it is given, and lets it return as a replica."""


def _kill(group: SentinelGroup, primary: int, _load: Load) -> None:
    group.kill(primary)
    group.wait_for_another(primary)
    group.start(primary)


def _switch(group: SentinelGroup, primary: int, _load: Load) -> None:
    """Let another server become the primary, as before maintenance."""
    group.fail_over()
    group.wait_for_another(primary)


def _freeze(group: SentinelGroup, primary: int, load: Load) -> None:
    """Freeze the primary: it keeps its connections, as a machine does that has lost its network.

    When it returns, it believes for a moment that it still is the primary.
    """
    group.send(primary, signal.SIGSTOP)
    group.wait_for_another(primary)
    load.wait_for_calls(1)
    group.send(primary, signal.SIGCONT)


class _Gaps:
    """Measures for each producer, and for all together, the longest time without a result."""

    def __init__(self, record: Record) -> None:
        self.longest: dict[str, float] = {}
        self._record, self._stop = record, Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        self._stop.set()
        self._thread.join()
        return {name: round(seconds, 1) for name, seconds in self.longest.items()}

    def _run(self) -> None:
        seen: dict[str, tuple[int, float]] = {}
        while not self._stop.wait(0.05):
            now = time.monotonic()
            counts = {"all": self._record.answered, **self._record.calls}
            for name, count in counts.items():
                last, since = seen.get(name, (count, now))
                self.longest[name] = max(self.longest.get(name, 0.0), now - since)
                seen[name] = (last, since) if count == last else (count, now)


@pytest.mark.parametrize(
    "failover", [_kill, _switch, _freeze], ids=["killed", "switched", "frozen"]
)
def test_nothing_is_lost_and_answers_come_within_20_seconds_after_the_primary_is(
    failover: Failover, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with faulty_service(tmp_path, new_broker=SentinelGroup) as service:
        group: SentinelGroup = service.broker  # type: ignore[assignment] # of new_broker
        with running_load(resending_producers(service)) as load:
            load.wait_for_answers(500)
            gaps = _Gaps(load.record)
            failover(group, group.primary(), load)
            group.wait_for_replicas()  # until then, the old primary may still take messages
            load.wait_for_calls(2)
            seconds = gaps.stop()
            stuck = load.stop(RECOVERY_SECONDS)
        assert (stuck, load.record.errors) == ([], [])
        row, findings = report(f"primary {failover.__name__}", 1, load.record, service)
        result: Row = row | {"seconds without a result": seconds}
        record_property("failover", result)
        assert not findings, summarize(findings)
        assert seconds["all"] <= MAX_GAP
