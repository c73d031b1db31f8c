"""Explains what would be decided on a message. Nothing is charged, signed or written."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

from valetkey.wire.messages import ChunkMessage
from valetkey.wire.parsing import parse_message
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Explanation, RuleVerdict
from valetkey.wire.terms import Parts
from worker.base.database_engine import read_transaction
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.explain.decision_explanation import ExplainContext, build_explanation, explain
from worker.issue.chunk_signing import first_signing_context, read_recorded
from worker.issue.feature_check import require_features
from worker.issue.multipart_uploads import find_continued_upload
from worker.ledger.batches import read_history
from worker.ledger.quota_usage import read_usage
from worker.rules.admission import admit
from worker.rules.authentication import AuthenticatedMessage, Rejection, authenticate
from worker.rules.decisions import ChunkRequest, Reply
from worker.rules.tenant_config import Tenant, TenantConfig


def respond_to_explain(
    message: ChunkMessage, sender: AuthenticatedMessage, config: TenantConfig, context: Context
) -> Reply:
    """Explain a request to its sender. Raises Transient."""
    request = ChunkRequest(message, sender.tenant, sender.signing_key)
    return Reply.of(explain_request(request, config, context))


def explain_request(request: ChunkRequest, config: TenantConfig, context: Context) -> Explanation:
    """Check an authenticated message against every rule.

    Raises Transient if the database is unreachable.
    """
    identity = "not signed: the tenant trusts the queue"
    if request.signing_key is not None:
        identity = f"signed by {request.tenant.name}/{request.signing_key}"
    return _explain(request.message, request.tenant, identity, config, context)


def explain_raw(raw: Any, context: Context) -> Explanation:
    """Explain a message as it comes off the queue: a compact JWS, or JSON values.

    An unsigned message is explained as if it were signed. Raises Malformed for a message that asks
    for no grants, and Transient if the database is unreachable.
    """
    config = context.config.current()
    sender = authenticate(raw, config, context.now()) if isinstance(raw, str) else None
    if isinstance(sender, Rejection):
        # The sender of such a message does not get the precise cause, but an operator does.
        found = "" if sender.cause == sender.refusal.code else f"counted as {sender.cause}"
        verdict = RuleVerdict(rule="identity", found=found, refusal=sender.refusal)
        return build_explanation([verdict])
    message = require_features(parse_message(raw if sender is None else sender.content))
    if isinstance(message, Refusal):
        return build_explanation([RuleVerdict(rule="message", found="", refusal=message)])
    if not isinstance(message, ChunkMessage):
        raise Malformed("the message asks for no grants, so there is nothing to explain")
    signing_key = None if sender is None else sender.signing_key
    tenant = config.tenants.get(message.tenant)
    if tenant is not None and (signing_key is not None or tenant.trust == "queue"):
        return explain_request(ChunkRequest(message, tenant, signing_key), config, context)
    identity = "not signed: explained as if it were"
    return _explain(message, tenant, identity, config, context)


def _explain(
    message: ChunkMessage,
    tenant: Tenant | None,
    identity: str,
    config: TenantConfig,
    context: Context,
) -> Explanation:
    now = context.now()
    admitted = admit(message, tenant, config, now)
    explained = ExplainContext(message, identity, tenant, config, now, admitted)
    if tenant is None:  # a removed tenant of this name is another one than the next
        return explain(explained)
    with read_transaction(context.engine) as connection:
        history = read_history(connection, tenant.id, message.batch, message.chunk, now)
        usage = read_usage(connection, tenant.id, now)
    recorded = upload = None
    if history.batch and history.chunk and history.refusal_of(message) is None:
        recorded = read_recorded(history.batch.batch_number, message.chunk, context)
    if isinstance(message.grant, Parts):
        upload = find_continued_upload(tenant.id, message.grant, context, now)
    validity = None
    if not isinstance(admitted, Refusal) and not isinstance(upload, Refusal):
        # An operator's own machine may have no credentials.
        with suppress(Transient):
            signing = first_signing_context(admitted, upload, context.s3)
            validity = signing if isinstance(signing, Refusal) else signing.validity
    explained = replace(explained, history=history, recorded=recorded, usage=usage)
    return explain(replace(explained, validity=validity, continued_upload=upload))
