"""Faults under load: no producer is told anything wrong, or nothing, and every batch is charged.

The control has producers that send each message once. If it lost nothing, the other runs could not
show that the client loses nothing.
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.faults.comparison import Findings, Record, summarize
from tests.support.faults.injections import (
    CAN_LIMIT_FILES,
    FULL_DISK,
    MORE_ON_SQLITE,
    ON_SQLITE,
    READ_ONLY_POSTGRES,
    STOPPED_POSTGRES,
    Fault,
    small_disk,
    stop_with_messages_waiting,
)
from tests.support.faults.producers import PlainProducer, resending_producers
from tests.support.faults.run import (
    INJECTIONS,
    IS_SHORT,
    Row,
    check_integrity,
    report,
    run_fault,
    running_load,
)
from tests.support.faults.service import FaultyService, faulty_service, service_on_postgres
from tests.support.servers.waiting import wait_until

pytestmark = pytest.mark.timeout(120 + 120 * INJECTIONS)
Check = Callable[[FaultyService, Fault], None]
FAULTS = ON_SQLITE if IS_SHORT else ON_SQLITE + MORE_ON_SQLITE
MAX_HANDOVERS = 5  # another client of the broker may be the one that waits
WAIT_SECONDS = 10.0 if IS_SHORT else 20.0  # a new worker starts and catches up within it


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients send again after 1 second in the short form, to save time."""
    if IS_SHORT:
        monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 1.0)


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyService]:
    """The service on SQLite, with a broker and a database of its own."""
    with faulty_service(tmp_path) as service:
        yield service


@pytest.fixture
def check(record_property: Callable[[str, Row], None]) -> Check:
    """A function that injects a fault, adds a row to the table, and compares."""

    def inject_and_compare(service: FaultyService, fault: Fault) -> None:
        row, findings = run_fault(service, fault, resending_producers(service))
        record_property("fault", row)
        assert not findings, summarize(findings)
        assert check_integrity(service.engine) == "ok"

    return inject_and_compare


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_rows_and_charges_agree_with_producers_after(
    fault: Fault, faulty: FaultyService, check: Check
) -> None:
    check(faulty, fault)


def test_rows_and_charges_agree_with_producers_after_a_full_disk(
    tmp_path: Path, check: Check
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        if disk is None and not CAN_LIMIT_FILES:
            pytest.skip("no file system can be mounted, and no limit set on a running process")
        with faulty_service(tmp_path, disk) as service:
            check(service, FULL_DISK)


@pytest.mark.parametrize(
    "fault", [STOPPED_POSTGRES, READ_ONLY_POSTGRES], ids=lambda fault: fault.name
)
def test_rows_and_charges_agree_with_producers_after_an_outage_of_postgres(
    fault: Fault, tmp_path: Path, check: Check
) -> None:
    with service_on_postgres(tmp_path) as service:
        check(service, fault)


def test_a_killed_worker_loses_results_if_nobody_sends_again(
    faulty: FaultyService, record_property: Callable[[str, Row], None]
) -> None:
    urls = (faulty.broker.url(0), faulty.broker.url(1))
    producers = [PlainProducer(f"plain-{n}", urls, WAIT_SECONDS) for n in range(3)]
    with running_load(producers) as load:
        for _ in range(INJECTIONS):
            load.wait_for_answers(20)
            stop_with_messages_waiting(faulty)
            faulty.worker.kill()
            load.wait_for_calls(1)
        assert load.stop(3 * WAIT_SECONDS) == []
    record = load.record
    kills = INJECTIONS
    while not lost_batches(faulty, record) and kills < INJECTIONS + MAX_HANDOVERS:
        kill_during_handover(faulty, PlainProducer(f"last-{kills}", urls, WAIT_SECONDS), record)
        kills += 1
    name = "control: kill -9 of the worker, without sending again"
    row, findings = report(name, kills, record, faulty)
    record_property("fault", row)
    assert record.errors == []
    assert lost_batches(faulty, record), "the broker holds each of them"
    assert replace(findings, lost=[]) == Findings(), summarize(findings)


def lost_batches(faulty: FaultyService, record: Record) -> list[str]:
    """Return the unanswered batches that the broker does not hold any more."""
    held = faulty.broker.held_messages()
    unanswered = [batch for batch, number in record.asked if (batch, number) not in record.told]
    return [batch for batch in unanswered if batch not in held]


def kill_during_handover(faulty: FaultyService, producer: PlainProducer, record: Record) -> None:
    """Kill a worker that waits for messages, after the broker has handed one over."""

    def is_stopped_while_waiting() -> bool:
        faulty.worker.send(signal.SIGSTOP)
        if faulty.broker.blocked_clients():
            return True
        faulty.worker.send(signal.SIGCONT)
        return False

    wait_until(is_stopped_while_waiting, what="the worker waits for a message")
    with producer.running_app() as app:
        results = producer.send(app, record, 0)
        faulty.worker.kill()
        producer.receive(results, record)
