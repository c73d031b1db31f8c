"""Injects a fault under load, and compares what producers were told with the database."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from random import Random
from typing import Protocol, Self

from sqlalchemy import Engine, text

from tests.support.faults.comparison import Findings, Record, compare
from tests.support.faults.injections import Fault
from tests.support.faults.service import FaultyService
from tests.support.servers.waiting import wait_until

RECOVERY_SECONDS = 90.0  # within which every call returns after a fault
ANSWER_SECONDS = 120.0  # for which a producer waits for one result before it gives up
_FIRST_ANSWER_SECONDS = 60.0
# Between two calls of a producer: as long as the last one took, within limits. Without it, small
# requests would keep their queue filled, above all on a busy machine, and large batches wait behind
# it: one worker reads its queues in order of priority.
_MIN_PAUSE, _MAX_PAUSE = 0.05, 1.0  # seconds


class Producer(Protocol):
    """A producer: while it runs, it makes calls by number, and notes their results in a record."""

    name: str

    def running(self, record: Record) -> AbstractContextManager[Callable[[int], object]]: ...


class Load:
    """The running producers, and what they were told."""

    def __init__(self, producers: Sequence[Producer]) -> None:
        self.record = Record()
        self._stop = threading.Event()
        self._threads = {
            each.name: threading.Thread(target=self._run, args=(each,), name=each.name, daemon=True)
            for each in producers
        }

    def _run(self, producer: Producer) -> None:
        try:
            with producer.running(self.record) as call:
                seconds = 0.0
                for number in count():
                    if self._stop.wait(min(max(seconds, _MIN_PAUSE), _MAX_PAUSE)):
                        return
                    began = time.monotonic()
                    call(number)
                    seconds = time.monotonic() - began
                    self.record.complete_call(producer.name, seconds)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test reports it
            self.record.fail(producer.name, error)

    def start(self) -> None:
        """Start all producers, and wait until each one has been answered."""
        for thread in self._threads.values():
            thread.start()
        self.wait_for_calls(1, _FIRST_ANSWER_SECONDS)

    def wait_for_calls(self, count: int, seconds: float = RECOVERY_SECONDS) -> None:
        """Wait until each producer has completed this many more calls than before."""
        before = dict(self.record.calls)

        def are_complete() -> bool:
            calls = self.record.calls
            return bool(self.record.errors) or all(
                calls.get(name, 0) >= before.get(name, 0) + count for name in self._threads
            )

        wait_until(are_complete, seconds, "every producer's call returns")

    def wait_for_answers(self, count: int) -> None:
        end = self.record.answered + count
        wait_until(lambda: self.record.errors or self.record.answered >= end, what="answers")

    def stop(self, seconds: float) -> list[str]:
        """Let each producer complete its call; return the names of those that did not."""
        self._stop.set()
        end = time.monotonic() + seconds
        for thread in self._threads.values():
            thread.join(max(end - time.monotonic(), 0))
        return [name for name, thread in self._threads.items() if thread.is_alive()]


@contextmanager
def running_load(producers: Sequence[Producer]) -> Iterator[Load]:
    """Run producers; at the end of the block they stop as soon as their calls return."""
    load = Load(producers)
    try:
        load.start()
        yield load
    finally:
        load.stop(0)


class AnswerGap:
    """The longest time in seconds without a further answer, while its block runs."""

    def __init__(self, record: Record) -> None:
        self.seconds = 0.0
        self._record = record
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        answered, since = self._record.answered, time.monotonic()
        while not self._stop.wait(0.05):
            now = time.monotonic()
            self.seconds = max(self.seconds, now - since)
            if self._record.answered != answered:
                answered, since = self._record.answered, now


_MAX_ANSWERS_BETWEEN = 3_000  # items between two injections; fewer in the short form
_MAX_ANSWERS_SHORT = 500


IS_SHORT = "VALETKEY_TEST_FAULTS" not in os.environ
"""True if each fault is injected only once, as a part of all tests."""
INJECTIONS = int(os.environ.get("VALETKEY_TEST_FAULTS", "1"))
SEED = int(os.environ.get("VALETKEY_TEST_FAULTS_SEED", "1"))
Row = dict[str, object]
"""The values of a row of the table of faults, by the titles of the columns."""


def run_fault(
    service: FaultyService, fault: Fault, producers: Sequence[Producer]
) -> tuple[Row, Findings]:
    """Inject a fault several times under load; each time, wait until every call has returned."""
    random = Random(f"{SEED} {fault.name}")
    with running_load(producers) as load:
        for _ in range(INJECTIONS):
            most = _MAX_ANSWERS_SHORT if IS_SHORT else _MAX_ANSWERS_BETWEEN
            load.wait_for_answers(random.randrange(most))
            fault.inject(service, random)
            load.wait_for_calls(1)
        stuck = load.stop(RECOVERY_SECONDS)
    assert (stuck, load.record.errors) == ([], [])
    return report(fault.name, INJECTIONS, load.record, service)


def report(name: str, times: int, record: Record, service: FaultyService) -> tuple[Row, Findings]:
    """Compare a record with the database; return a row of the table as well."""
    findings = compare(record, service.engine)
    worker = {
        "ended by itself and was restarted": service.worker.restarts,
        "did not stop on SIGTERM": service.worker.forced_stops,
    }
    row = {
        "fault": name,
        "times": times,
        "items asked": len(record.asked),
        "answered": record.answered,
        **{kind: len(lines) for kind, lines in vars(findings).items()},
        "slowest call (s)": round(record.slowest, 1),
        "worker": "; ".join(f"{what}: {count}" for what, count in worker.items() if count),
    }
    return row, findings


def check_integrity(engine: Engine) -> str:
    """Return `ok`, or what SQLite finds wrong with the database file."""
    if engine.dialect.name != "sqlite":
        return "ok"
    with engine.connect() as connection:
        return str(connection.execute(text("PRAGMA integrity_check")).scalar())
