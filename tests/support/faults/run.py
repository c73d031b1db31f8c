"""Injects a fault under load, and compares what producers were told with the database."""

import os
from collections.abc import Sequence
from random import Random

from sqlalchemy import Engine, text

from tests.support.faults.comparison import Findings, compare
from tests.support.faults.injections import Fault
from tests.support.faults.load import RECOVERY_SECONDS, Producer, running_load
from tests.support.faults.record import Record
from tests.support.faults.service import FaultyService

_MAX_ANSWERS_BETWEEN = 3_000  # items between two injections; fewer in the short form
_MAX_ANSWERS_SHORT = 500


Row = dict[str, object]
"""The values of a row of the table of faults, by the titles of the columns."""


def is_short_form() -> bool:
    """Return whether each fault is injected only once, as a part of all tests."""
    return "VALETKEY_TEST_FAULTS" not in os.environ


def injection_count() -> int:
    """Return how often each fault is injected."""
    return int(os.environ.get("VALETKEY_TEST_FAULTS", "1"))


def injection_seed() -> int:
    """Return the seed of the moments and variants of faults."""
    return int(os.environ.get("VALETKEY_TEST_FAULTS_SEED", "1"))


def run_fault(
    service: FaultyService, fault: Fault, producers: Sequence[Producer]
) -> tuple[Row, Findings]:
    """Inject a fault several times under load; each time, wait until every call has returned."""
    random = Random(f"{injection_seed()} {fault.name}")
    with running_load(producers) as load:
        for _ in range(injection_count()):
            most = _MAX_ANSWERS_SHORT if is_short_form() else _MAX_ANSWERS_BETWEEN
            load.wait_for_answers(random.randrange(most))
            fault.inject(service, random)
            load.wait_for_calls(1)
        stuck = load.stop(RECOVERY_SECONDS)
    assert (stuck, load.record.errors) == ([], [])
    return report(fault.name, injection_count(), load.record, service)


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
