"""Sends the webhooks that are due: many at once, in fair turns of tenants and endpoints."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import structlog

from worker.context import Context
from worker.core.webhooks.circuit import CLOSED
from worker.db.circuits import begin_probe, read_circuits, record_responses
from worker.db.engine import read_transaction, write_transaction
from worker.db.outbox import (
    Claim,
    DeliveryLease,
    DeliveryResult,
    due_endpoints,
    lease_deliveries,
    settle_delivery,
)
from worker.errors import Transient
from worker.jobs.single_flight import JobRun
from worker.jobs.thread_group import ThreadGroup
from worker.jobs.turns import Limits, Turns
from worker.usecases.upkeep.delivery_attempt import attempt_delivery

log = structlog.get_logger()

LIMITS = Limits(total=64, per_owner=32, per_key=4, suspects=32)
"""The attempts of one process at the same time: in all, of a tenant, of an endpoint, and of all
endpoints that failed last."""

_SCAN_INTERVAL = 0.2  # seconds after which new deliveries are found, while others are being sent
_REPORT_INTERVAL = timedelta(minutes=1)  # between two log lines of a long run
_STUCK_AFTER = 180.0  # seconds: every step of an attempt has a shorter timeout of its own
_MAX_DATABASE_FAILURES = 60  # in a row, a second apart: by then the leases have expired

_Finished = tuple[DeliveryLease, DeliveryResult]


def deliver_due(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Send due webhooks until none is left, or the run has to stop; return counts.

    Any number of processes may do this at once. Raises Transient.
    """
    deliveries = _Deliveries(context, run or JobRun())
    deliveries.send_all()
    return deliveries.counts


class _Deliveries:
    """The deliveries of one run. This thread reads and writes the outbox; others send."""

    def __init__(self, context: Context, run: JobRun) -> None:
        self.counts = {"delivered": 0, "undelivered": 0}
        self._context = context
        self._run = run
        self._turns = Turns(LIMITS)
        self._threads: ThreadGroup[DeliveryLease, DeliveryResult] = ThreadGroup(
            partial(attempt_delivery, context=context), "delivery"
        )
        self._unsettled: list[_Finished] = []
        self._failures = 0
        self._reported_at = context.now()

    def send_all(self) -> None:
        while True:
            self._collect()
            try:
                self._settle()
                claimed = 0 if self._run.is_stopping else self._claim()
            except Transient as error:
                self._wait_for_database(error)
                continue
            self._failures = 0
            self._run.progress()
            self._report()
            if not claimed and not self._threads.running:
                return

    def _collect(self) -> None:
        """Wait until an attempt is finished, but no longer than until the next search."""
        for delivery, result in self._threads.wait(_SCAN_INTERVAL):
            self._turns.end(delivery.endpoint)
            self._unsettled.append((delivery, result))
        for delivery in self._threads.abandon(_STUCK_AFTER):
            # Its lease has expired: it is attempted again, or has failed after its last attempt.
            self._turns.end(delivery.endpoint)
            log.error("delivery_hangs", delivery=delivery.delivery_number)

    def _report(self) -> None:
        now = self._context.now()
        if now - self._reported_at >= _REPORT_INTERVAL:
            self._reported_at = now
            log.info("webhooks_sending", running=self._threads.running, **self.counts)

    def _wait_for_database(self, error: Transient) -> None:
        """Wait a moment, while attempts are running or unsettled; otherwise end the run."""
        self._failures += 1
        is_idle = not self._unsettled and not self._threads.running
        if is_idle or self._run.is_stopping or self._failures > _MAX_DATABASE_FAILURES:
            raise error
        self._run.sleep(1)

    def _settle(self) -> None:
        if not self._unsettled:
            return
        try:
            self._write(self._unsettled)
        except Transient:
            raise
        except Exception:  # noqa: BLE001 - one delivery must not stop the others
            for finished in self._unsettled:
                self._write_alone(finished)
        for _, result in self._unsettled:
            self.counts["delivered" if result.problem is None else "undelivered"] += 1
        self._unsettled = []

    def _write(self, finished: Sequence[_Finished]) -> None:
        now = self._context.now()
        with write_transaction(self._context.engine) as connection:
            settled = [
                (delivery, result)
                for delivery, result in finished
                if settle_delivery(connection, delivery, result, now)
            ]
            opened = record_responses(connection, settled, now)
        for endpoint in opened:
            log.warning("endpoint_paused", tenant=endpoint.owner, endpoint=endpoint.name)

    def _write_alone(self, finished: _Finished) -> None:
        try:
            self._write([finished])
        except Transient:
            raise
        except Exception:
            # Its lease expires, and it is attempted again, up to the number of attempts.
            log.exception("delivery_failed", delivery=finished[0].delivery_number)

    def _claim(self) -> int:
        """Lease what may be sent now, and start to send it; return how many deliveries."""
        claims = self._find_claims()
        if not claims:
            return 0
        now, lease = self._context.now(), self._context.new_lease()
        leased: list[DeliveryLease] = []
        with write_transaction(self._context.engine) as connection:
            for claim in claims:
                if not claim.is_probe or begin_probe(connection, claim.endpoint, now):
                    leased += lease_deliveries(connection, claim, lease, now)
        for delivery in leased:
            self._turns.start(delivery.endpoint)
            self._threads.start(delivery)
        return len(leased)

    def _find_claims(self) -> list[Claim]:
        """Return the endpoints whose turn it is, in the order in which to lock their rows."""
        now = self._context.now()
        with read_transaction(self._context.engine) as connection:
            due = due_endpoints(connection, now)
            circuits = read_circuits(connection) if due else {}
        probes = {endpoint for endpoint, circuit in circuits.items() if circuit.needs_probe(now)}
        waiting = {
            endpoint: 1 if endpoint in probes else LIMITS.per_key
            for endpoint in due
            if not circuits.get(endpoint, CLOSED).is_open(now)
        }
        shares = self._turns.allot(waiting, circuits.keys())
        return [Claim(key, count, key in probes) for key, count in sorted(shares.items())]
