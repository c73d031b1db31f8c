"""The control: without a client that sends messages again, a killed worker loses results.

If this run lost nothing, the other runs could not show that the client loses nothing.
"""

import signal
from dataclasses import replace

import pytest

from tests.faults.conftest import Report
from tests.support.faults.comparison import summarize
from tests.support.faults.injections import stop_with_messages_waiting
from tests.support.faults.load import running_load
from tests.support.faults.plain_producer import PlainProducer
from tests.support.faults.record import Record
from tests.support.faults.run import injection_count, is_short_form, report
from tests.support.faults.service import FaultyService
from tests.support.servers.waiting import wait_until

pytestmark = pytest.mark.timeout(120 + 60 * injection_count())
MAX_HANDOVERS = 5  # another client of the broker may be the one that waits
WAIT_SECONDS = 10.0 if is_short_form() else 20.0  # a new worker starts and catches up within it


def test_a_killed_worker_loses_results_if_nobody_sends_again(
    faulty: FaultyService, report_fault: Report
) -> None:
    urls = (faulty.broker.url(0), faulty.broker.url(1))
    producers = [PlainProducer(f"plain-{n}", urls, WAIT_SECONDS) for n in range(3)]
    with running_load(producers) as load:
        for _ in range(injection_count()):
            load.wait_for_answers(20)
            stop_with_messages_waiting(faulty)
            faulty.worker.kill()
            load.wait_for_calls(1)
        assert load.stop(3 * WAIT_SECONDS) == []
    record = load.record
    kills = injection_count()
    while not lost_batches(faulty, record) and kills < injection_count() + MAX_HANDOVERS:
        kill_during_handover(faulty, PlainProducer(f"last-{kills}", urls, WAIT_SECONDS), record)
        kills += 1
    name = "control: kill -9 of the worker, without sending again"
    findings = report_fault(report(name, kills, record, faulty))
    assert record.errors == []
    assert lost_batches(faulty, record), "the broker holds each of them"
    assert not replace(findings, lost=[]), summarize(findings)


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
