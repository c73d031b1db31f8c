"""Sends the webhooks that are due: many at once, in fair turns of tenants and endpoints.

Each attempt is made under today's policy: grants in a webhook are signed again. The states of
endpoints are rows that all processes share.
"""

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog

from worker.base.database_engine import read_transaction, write_transaction
from worker.base.jobs import JobRun
from worker.base.stages import observe
from worker.base.tracing import annotate, webhook_span
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.issue.cleanup import clean_in_turns
from worker.shared.threads import ThreadGroup
from worker.webhooks.batch_completion import release_completions
from worker.webhooks.endpoint_states import (
    EndpointChanges,
    FinishedDelivery,
    begin_probe,
    delete_old_states,
    read_health,
    record_results,
)
from worker.webhooks.listeners import delete_expired_listeners
from worker.webhooks.outbox import (
    Claim,
    DeliveryLease,
    DeliveryResult,
    bring_forward,
    due_endpoints,
    fail_expired_deliveries,
    lease_deliveries,
    settle_delivery,
)
from worker.webhooks.turns import TurnKey, TurnLimits, Turns
from worker.webhooks.webhook_client import WebhookFailure, webhook_client
from worker.webhooks.webhook_events import EXPIRED, RenderedWebhook, render
from worker.webhooks.webhook_rules import (
    GONE,
    MAX_RETRY_DELAY,
    RETRY_SCHEDULE,
    EndpointHealth,
    retry_delay,
)
from worker.webhooks.webhook_secrets import resolve_secrets, signature_headers

log = structlog.get_logger()

MAX_ATTEMPTS = len(RETRY_SCHEDULE)
_MAX_PROBLEM_LENGTH = 200
_SERVER_ERROR = 5


def attempt_delivery(delivery: DeliveryLease, context: Context) -> DeliveryResult:
    """Attempt a delivery once, and return its result. Raises nothing.

    Any number of threads may do this at once, for different deliveries.
    """
    if delivery.attempts > MAX_ATTEMPTS:
        return DeliveryResult(None, "every process that sent it was stopped", None)
    attempted_at, started = context.now(), time.monotonic()
    try:
        webhook = render(delivery, context)
        started = time.monotonic()
        result = _send(delivery, webhook, context)
    except Malformed as error:
        return DeliveryResult(None, str(error)[:_MAX_PROBLEM_LENGTH], None)
    except WebhookFailure as error:
        result = _retry(delivery, str(error), context, is_endpoint_up=False)
    except Transient as error:
        result = _retry(delivery, str(error), context)
    except Exception as error:
        # The log is scrubbed. The problem is shown to operators, and names only the type.
        log.exception("delivery_failed", delivery=delivery.delivery_number)
        result = _retry(delivery, f"an unexpected error: {type(error).__name__}", context)
    if result.problem is None:
        due_for = (context.now() - delivery.created_at).total_seconds()
        observe("webhook_delay", "", max(due_for, 0.0))
    duration = round((time.monotonic() - started) * 1000)
    return result._replace(attempted_at=attempted_at, duration_ms=duration)


def _send(delivery: DeliveryLease, webhook: RenderedWebhook, context: Context) -> DeliveryResult:
    now = context.now()
    secrets = resolve_secrets(webhook.endpoint.secret, context.environ, now)
    headers = signature_headers(secrets, webhook.message_id, now, webhook.body)
    with webhook_span(*delivery.endpoint):
        response = context.use(webhook_client).post(webhook.endpoint.url, webhook.body, headers)
        annotate({"http.response.status_code": response.status})
    status, is_up = response.status, response.status // 100 != _SERVER_ERROR
    if response.is_success:
        return DeliveryResult(status, None, None, is_up)
    if status == GONE:
        return DeliveryResult(status, "the endpoint is gone", None, is_up)
    problem = f"the endpoint responded with {status}"
    result = _retry(delivery, problem, context, response.retry_after, is_endpoint_up=is_up)
    return result._replace(status=status)


def _retry(
    delivery: DeliveryLease,
    problem: str,
    context: Context,
    retry_after: timedelta | None = None,
    *,
    is_endpoint_up: bool | None = None,
) -> DeliveryResult:
    now, problem = context.now(), problem[:_MAX_PROBLEM_LENGTH]
    delay = retry_delay(delivery.attempts, context.random(), retry_after)
    if delay is None:
        return DeliveryResult(None, problem, None, is_endpoint_up)
    asked = None if retry_after is None else now + min(retry_after, MAX_RETRY_DELAY)
    return DeliveryResult(None, problem, now + delay, is_endpoint_up, asked)


LIMITS = TurnLimits(total=96, per_owner=64, per_key=4, suspects=32)
"""The attempts of one process at the same time: in all, of a tenant, of an endpoint, and of all
endpoints that failed last or respond slowly. These alone cannot use up a tenant's part."""

_SLOW_AFTER = 1.0  # seconds without a response
_SLOW_FOR = 60.0  # seconds after that; else all places would be taken again in the first second
_SCAN_INTERVAL = 0.2  # seconds between searches for what is due without a trigger, as retries are
_REPORT_INTERVAL = timedelta(minutes=1)  # between two log lines of a long run
_STUCK_AFTER = 180.0  # seconds: every step of an attempt has a shorter timeout of its own
_MAX_DATABASE_FAILURES = 60  # in a row, a second apart: by then the leases have expired


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
        run.on_trigger = self._threads.wake
        self._unsettled: list[FinishedDelivery] = []
        self._recovered: dict[TurnKey, datetime | None] = {}
        self._slow: dict[TurnKey, float] = {}
        self._failures = 0
        self._reported_at = context.now()

    def send_all(self) -> None:
        while True:
            self._collect()
            try:
                self._settle()
                has_more = self._bring_forward()
                claimed = 0 if self._run.is_stopping else self._claim()
            except Transient as error:
                self._wait_for_database(error)
                continue
            self._failures = 0
            self._run.progress()
            self._report()
            if not claimed and not self._threads.running and not has_more:
                return

    def _collect(self) -> None:
        """Wait until an attempt is finished or a trigger, but no longer than to the next search."""
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
        if self._unsettled:
            self._write(self._unsettled)
        for _, result in self._unsettled:
            self.counts["delivered" if result.problem is None else "undelivered"] += 1
        self._unsettled = []

    def _write(self, finished: Sequence[FinishedDelivery]) -> None:
        """Write results, each alone if that fails: one delivery must not stop the others."""
        now = self._context.now()
        config = self._context.config.current()
        try:
            with write_transaction(self._context.engine) as connection:
                settled = [
                    (delivery, result)
                    for delivery, result in finished
                    if settle_delivery(connection, delivery, result, now)
                ]
                over = (each.batch_number for each, result in settled if result.retry_at is None)
                release_completions(connection, filter(None, over), now)
                changes = record_results(connection, settled, config, now)
                recovered = bring_forward(connection, changes.recovered, now)
        except Transient:
            raise
        except Exception:
            if len(finished) > 1:
                for each in finished:
                    self._write([each])
            else:
                # Its lease expires, and it is attempted again, up to the number of attempts.
                log.exception("delivery_failed", delivery=finished[0][0].delivery_number)
            return
        self._recovered |= recovered
        _log_changes(changes)

    def _bring_forward(self) -> bool:
        """Make the next waiting deliveries of endpoints due that recovered; return if any are left.

        Others are sent in between: what waits for one endpoint may be very much.
        """
        if not self._recovered or self._run.is_stopping:
            return False
        with write_transaction(self._context.engine) as connection:
            self._recovered = bring_forward(connection, self._recovered, self._context.now())
        return bool(self._recovered)

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
            states = read_health(connection) if due else {}
        probes = {key for key, health in states.items() if health.needs_probe(now)}
        waiting = {
            endpoint: 1 if endpoint in probes else LIMITS.per_key
            for endpoint in due
            if states.get(endpoint, EndpointHealth()).may_be_called(now)
        }
        suspects = {key for key, health in states.items() if health.failures}
        moment = time.monotonic()
        self._slow |= {each.endpoint: moment for each in self._threads.older_than(_SLOW_AFTER)}
        suspects.update(key for key, at in self._slow.items() if moment - at < _SLOW_FOR)
        shares = self._turns.allot(waiting, suspects)
        return [Claim(key, count, key in probes) for key, count in sorted(shares.items())]


def _log_changes(changes: EndpointChanges) -> None:
    for endpoint in changes.paused:
        log.warning("endpoint_paused", tenant=endpoint.owner, endpoint=endpoint.name)
    for endpoint, reason in changes.disabled.items():
        names = {"tenant": endpoint.owner, "endpoint": endpoint.name}
        log.warning("endpoint_disabled", **names, reason=reason)


def clean_up_webhooks(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Fail deliveries that have expired, and delete old states and listeners.

    Any number of processes may do this at once. Returns counts. Raises Transient.
    """
    fail = partial(fail_expired_deliveries, problem=EXPIRED)
    undelivered = clean_in_turns(context, run or JobRun(), fail)
    config = context.config.current()
    with write_transaction(context.engine) as connection:
        delete_old_states(connection, config, context.now())
        delete_expired_listeners(connection, context.now())
    return {"undelivered": undelivered}
