"""One attempt to deliver a webhook, under today's policy: grants in it are signed again."""

import json
from datetime import timedelta

import structlog

from worker.context import Context
from worker.core.policy.decisions import chunk_outcome
from worker.core.policy.request_rules import allowed_callback_names
from worker.core.tenants.config import WebhookEndpoint
from worker.core.webhooks.retry import SCHEDULE, next_retry_delay
from worker.core.webhooks.signature import signature_headers
from worker.db.outbox import DeliveryLease, DeliveryResult
from worker.errors import Malformed, Transient
from worker.net.webhook_client import WebhookFailure, WebhookResponse
from worker.net.webhook_secrets import resolve_secrets
from worker.usecases.reissue import read_recorded, reissue_chunk
from worker.usecases.uses.upload_message import upload_message

log = structlog.get_logger()

EXPIRED = "its grants had expired"
MAX_ATTEMPTS = len(SCHEDULE)
_MAX_PROBLEM_LENGTH = 200
_SUCCESS = 2  # the first digit of a successful status; redirects are failures too
_SERVER_ERROR = 5
_GONE = 410  # the endpoint wants no more webhooks: Standard Webhooks 1.0.0


def attempt_delivery(delivery: DeliveryLease, context: Context) -> DeliveryResult:
    """Attempt a delivery once, and return its result. Raises nothing.

    Any number of threads may do this at once, for different deliveries.
    """
    if delivery.attempts > MAX_ATTEMPTS:
        return DeliveryResult(None, "every process that sent it was stopped", None)
    try:
        return _attempt(delivery, context)
    except Malformed as error:
        return DeliveryResult(None, str(error)[:_MAX_PROBLEM_LENGTH], None)
    except WebhookFailure as error:
        failed = _retry(delivery, None, str(error), None, context)
        return failed._replace(is_endpoint_up=False)
    except Transient as error:
        return _retry(delivery, None, str(error), None, context)
    except Exception as error:
        # The log is scrubbed. The problem is shown to operators, and names only the type.
        log.exception("delivery_failed", delivery=delivery.delivery_number)
        problem = f"an unexpected error: {type(error).__name__}"
        return _retry(delivery, None, problem, None, context)


def _attempt(delivery: DeliveryLease, context: Context) -> DeliveryResult:
    if delivery.event is None:
        return _attempt_outcome(delivery, context)
    message = upload_message(delivery, context)
    endpoint = _allowed_endpoint(delivery, message.bucket, context)
    response = _send(endpoint, message.message_id, message.body, context)
    return _response_result(delivery, response, context)


def _attempt_outcome(delivery: DeliveryLease, context: Context) -> DeliveryResult:
    recorded = read_recorded(delivery.batch_number, delivery.chunk_number, context)
    if recorded.refusal is None and recorded.validity.expires_at <= context.now():
        return DeliveryResult(None, EXPIRED, None)
    endpoint = _allowed_endpoint(delivery, recorded.terms.bucket, context)
    decision = reissue_chunk(recorded, context)
    outcome = chunk_outcome(recorded.batch_id, recorded.chunk_number, decision)
    message_id = f"{recorded.batch_id}-{recorded.chunk_number}"
    response = _send(endpoint, message_id, json.dumps(outcome).encode(), context)
    return _response_result(delivery, response, context)


def _allowed_endpoint(delivery: DeliveryLease, bucket: str, context: Context) -> WebhookEndpoint:
    """Return the endpoint by today's config. Raises Malformed if it may no longer be called.

    bucket is the bucket profile that the request names.
    """
    name = delivery.endpoint.name
    tenant = context.config.current().tenant_by_id(delivery.endpoint.owner)
    if tenant is None or name not in tenant.endpoints:
        raise Malformed("the endpoint is no longer configured")
    if name not in allowed_callback_names(tenant, bucket):
        raise Malformed("the tenant's policy no longer allows this endpoint")
    return tenant.endpoints[name]


def _send(
    endpoint: WebhookEndpoint, message_id: str, body: bytes, context: Context
) -> WebhookResponse:
    secrets = resolve_secrets(endpoint.secret, context.environ)
    headers = signature_headers(secrets, message_id, context.now(), body)
    headers |= {"content-type": "application/json"}
    return context.webhook_client().post(endpoint.url, body, headers)


def _response_result(
    delivery: DeliveryLease, response: WebhookResponse, context: Context
) -> DeliveryResult:
    status, is_up = response.status, response.status // 100 != _SERVER_ERROR
    if status // 100 == _SUCCESS:
        return DeliveryResult(status, None, None, is_up)
    if status == _GONE:
        return DeliveryResult(status, "the endpoint is gone", None, is_up)
    problem = f"the endpoint responded with {status}"
    failed = _retry(delivery, status, problem, response.retry_after, context)
    return failed._replace(is_endpoint_up=is_up)


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
