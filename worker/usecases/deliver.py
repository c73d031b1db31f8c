"""Sends the webhooks that are due: each outcome is signed again, sent, and settled."""

import json
from datetime import timedelta

from worker.context import Context
from worker.core.policy.decisions import RecordedChunk, chunk_outcome
from worker.core.webhooks.retry import next_retry_delay
from worker.core.webhooks.signature import signature_headers
from worker.db.engine import write_transaction
from worker.db.outbox import DeliveryLease, DeliveryResult, lease_delivery, settle_delivery
from worker.errors import Malformed, Transient
from worker.net.webhook_client import WebhookResponse
from worker.net.webhook_secrets import resolve_secrets
from worker.usecases.reissue import read_recorded, reissue_chunk

MAX_RUN_TIME = timedelta(seconds=30)  # below the task's time limit, even with one more exchange
_MAX_PROBLEM_LENGTH = 200
_SUCCESS = 2  # the first digit of a successful status; redirects are failures too
_GONE = 410  # the endpoint wants no more webhooks: Standard Webhooks 1.0.0


def deliver_due(context: Context) -> dict[str, int]:
    """Send due webhooks, the oldest first, until none is left or time is up; return counts.

    Any number of processes may do this at once. Raises Transient.
    """
    counts = {"delivered": 0, "undelivered": 0}
    deadline = context.now() + MAX_RUN_TIME
    while context.now() < deadline and (delivery := _lease(context)) is not None:
        result = _attempt(delivery, context)
        with write_transaction(context.engine) as connection:
            settle_delivery(connection, delivery, result, context.now())
        counts["delivered" if result.problem is None else "undelivered"] += 1
    return counts


def _lease(context: Context) -> DeliveryLease | None:
    with write_transaction(context.engine) as connection:
        return lease_delivery(connection, context.new_lease(), context.now())


def _attempt(delivery: DeliveryLease, context: Context) -> DeliveryResult:
    if not delivery.url:
        return DeliveryResult(None, "the endpoint is no longer configured", None)
    recorded = read_recorded(delivery.batch_number, delivery.chunk_number, context)
    if recorded.refusal is None and recorded.validity.expires_at <= context.now():
        return DeliveryResult(None, "its grants had expired", None)
    try:
        response = _send(delivery, recorded, context)
    except Malformed as error:
        return DeliveryResult(None, str(error)[:_MAX_PROBLEM_LENGTH], None)
    except Transient as error:
        return _retry(delivery, None, str(error), None, context)
    return _response_result(delivery, response, context)


def _response_result(
    delivery: DeliveryLease, response: WebhookResponse, context: Context
) -> DeliveryResult:
    if response.status // 100 == _SUCCESS:
        return DeliveryResult(response.status, None, None)
    if response.status == _GONE:
        return DeliveryResult(response.status, "the endpoint is gone", None)
    problem = f"the endpoint responded with {response.status}"
    return _retry(delivery, response.status, problem, response.retry_after, context)


def _send(delivery: DeliveryLease, recorded: RecordedChunk, context: Context) -> WebhookResponse:
    decision = reissue_chunk(recorded, context)
    outcome = chunk_outcome(recorded.batch_id, recorded.chunk_number, decision)
    body = json.dumps(outcome).encode()
    secrets = resolve_secrets(delivery.secret, context.environ)
    message_id = f"{recorded.batch_id}-{recorded.chunk_number}"
    headers = signature_headers(secrets, message_id, context.now(), body)
    headers |= {"content-type": "application/json"}
    return context.webhook_client().post(delivery.url, body, headers)


def _retry(
    delivery: DeliveryLease,
    status: int | None,
    problem: str,
    retry_after: timedelta | None,
    context: Context,
) -> DeliveryResult:
    delay = next_retry_delay(delivery.attempts, context.random(), retry_after)
    retry_at = None if delay is None else context.now() + delay
    return DeliveryResult(status, problem[:_MAX_PROBLEM_LENGTH], retry_at)
