"""From the outbox to endpoints: what is due is signed again, sent, and settled in the database."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from worker.core.policy.decisions import RecordedChunk, chunk_outcome
from worker.core.webhooks.retry import next_retry_delay
from worker.core.webhooks.signature import signature_headers
from worker.db.ledger import Ledger
from worker.db.outbox import DeliveryLease, DeliveryResult, Outbox
from worker.errors import Malformed, Transient
from worker.net.webhook_client import WebhookClient, WebhookResponse
from worker.net.webhook_secrets import resolve_secrets
from worker.usecases.reissue import Reissuer

BUDGET = timedelta(seconds=30)  # under the tasks' time limit, with one exchange still to come
_SUCCESS = 2  # the hundred that any other status is a failure beside, redirects too
_GONE = 410  # the endpoint asks never to be called again: Standard Webhooks 1.0.0


class Deliverer:
    """Sends what is due; any number of these may run at once."""

    def __init__(  # noqa: PLR0913 - everything a delivery touches, and named
        self,
        *,
        outbox: Outbox,
        ledger: Ledger,
        reissuer: Reissuer,
        courier: WebhookClient,
        environ: Mapping[str, str],
        now: Callable[[], datetime],
        jitter: Callable[[], float],
    ) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._reissuer = reissuer
        self._courier = courier
        self._environ = environ
        self._now = now
        self._jitter = jitter

    def deliver_due(self) -> dict[str, int]:
        """Send what is due, longest first, until nothing is or the time is up; count what came."""
        counts = {"delivered": 0, "undelivered": 0}
        end = self._now() + BUDGET
        while self._now() < end and (parcel := self._outbox.take(self._now())) is not None:
            report = self._attempt(parcel)
            self._outbox.settle(parcel, report, self._now())
            counts["delivered" if report.problem is None else "undelivered"] += 1
        return counts

    def _attempt(self, parcel: DeliveryLease) -> DeliveryResult:
        if not parcel.url:
            return DeliveryResult(None, "the endpoint is no longer declared", None)
        recorded = self._ledger.recorded(parcel.batch, parcel.chunk)
        if recorded.refusal is None and recorded.life.expires_at <= self._now():
            return DeliveryResult(None, "its grants had expired", None)
        try:
            reply = self._send(parcel, recorded)
        except (Malformed, Transient) as error:
            again = self._again(parcel, None, str(error), None)
            return again if isinstance(error, Transient) else again._replace(retry_at=None)
        if reply.status // 100 == _SUCCESS:
            return DeliveryResult(reply.status, None, None)
        if reply.status == _GONE:
            return DeliveryResult(reply.status, "the endpoint is gone", None)
        return self._again(parcel, reply.status, f"answered {reply.status}", reply.retry_after)

    def _send(self, parcel: DeliveryLease, recorded: RecordedChunk) -> WebhookResponse:
        decided = self._reissuer.reissue(recorded)
        body = json.dumps(chunk_outcome(recorded.batch, recorded.chunk, decided)).encode()
        secrets = resolve_secrets(parcel.secret, self._environ)
        message_id = f"{recorded.batch}-{recorded.chunk}"
        headers = signature_headers(secrets, message_id, self._now(), body)
        return self._courier.post(parcel.url, body, headers | {"content-type": "application/json"})

    def _again(
        self, parcel: DeliveryLease, status: int | None, problem: str, retry_after: timedelta | None
    ) -> DeliveryResult:
        wait = next_retry_delay(parcel.attempts, self._jitter(), retry_after)
        return DeliveryResult(status, problem[:200], None if wait is None else self._now() + wait)
