"""Responds to one message: authenticates it, runs its use case, and seals the response."""

from typing import Any, NamedTuple, get_args

from isal import igzip
from joserfc import jwe
from pydantic import BaseModel
from pydantic_core import to_json

from valetkey.crypto.jose import GZIP, JWE_REGISTRY, MAX_MESSAGE_BYTES, SEALING_ALGORITHMS
from valetkey.crypto.keys import PublicKey, build_public_key
from valetkey.delivery.tracing import content_attributes
from valetkey.wire import messages
from valetkey.wire.messages import (
    AnyMessage,
    BatchMessage,
    BundleMessage,
    CancelMessage,
    ChunkMessage,
    ListenMessage,
    ReissueMessage,
    ServiceMessage,
    StatusMessage,
    UsageMessage,
)
from valetkey.wire.parsing import parse_message
from valetkey.wire.refusals import Code, QuotaState, Refusal
from valetkey.wire.replies import Listening, ServiceInfo, ServiceLimits, Usage
from worker.base.database_engine import autocommit_read, write_transaction
from worker.base.stages import stage
from worker.base.tracing import annotate
from worker.broker.message_guard import MAX_FRAME_BYTES
from worker.context import Context
from worker.core.admission import called_endpoint
from worker.core.authentication import (
    MAX_CLOCK_SKEW,
    MAX_MESSAGE_AGE,
    AuthenticatedMessage,
    Rejection,
    authenticate,
    message_digest,
    parse_claimed_chunk,
)
from worker.core.decisions import ChunkRequest, refused_outcome
from worker.core.grant_kinds import KINDS
from worker.core.policy_rules import refuse
from worker.core.tenant_config import Tenant, TenantConfig
from worker.issue.earlier_batches import cancel_batch, reissue_grant, reopen_batch
from worker.issue.issuer import issue_bundle, issue_chunk
from worker.issue.request_explanation import explain_request
from worker.ledger.listeners import register_listener
from worker.ledger.quota_usage import read_quota_states
from worker.ledger.rejections import count_rejections
from worker.uses.batch_uses import describe_uses

_LIMITS = ServiceLimits(
    **messages.WIRE_LIMITS,
    max_frame_bytes=MAX_FRAME_BYTES,
    max_message_bytes=MAX_MESSAGE_BYTES,
    max_message_age=MAX_MESSAGE_AGE,
    max_clock_skew=MAX_CLOCK_SKEW,
)


def describe_service(tenant_name: str) -> ServiceInfo:
    """Return the description of this release. It charges nothing and reads no table."""
    return ServiceInfo(
        tenant=tenant_name,
        release=messages.RELEASE,
        versions=[messages.VERSION],
        asks=list(get_args(messages.Ask)),
        kinds=list(KINDS),
        limits=_LIMITS,
    )


_MIN_COMPRESSED_BYTES = 4_096  # below this size, compression costs more time than it saves


def seal(content: bytes, key_id: str, key: PublicKey) -> str:
    """Encrypt content as a compact JWE (RFC 7516) that only the owner of the private key can read.

    Content above 4,096 bytes is compressed to about a tenth, because URLs are similar; cty is then
    gzip. The token's length reveals no more than the number of granted items.
    """
    header = {"alg": SEALING_ALGORITHMS[0], "enc": SEALING_ALGORITHMS[1], "kid": key_id}
    if len(content) > _MIN_COMPRESSED_BYTES:
        header["cty"] = GZIP
        # Takes a sixth of the time of the standard library's gzip.
        content = igzip.compress(content, compresslevel=1, mtime=0)
    return jwe.encrypt_compact(header, content, key.encryption_key, registry=JWE_REGISTRY)


class Response(NamedTuple):
    """The response to a message, as JSON values and as it is sent.

    tenant is set once the sender is authenticated. is_decision says that items were decided,
    has_webhook that an endpoint or a listener will be called, may_complete_manifest that the
    manifest of the batch may be due.
    """

    values: dict[str, Any]
    sent: dict[str, Any] | str
    tenant: str | None = None
    is_decision: bool = False
    has_webhook: bool = False
    may_complete_manifest: bool = False

    @property
    def outcomes(self) -> list[dict[str, Any]]:
        """The replies in the response to a bundle, or else the only one."""
        replies: list[dict[str, Any]] = self.values.get("replies", [self.values])
        return replies


def respond(raw: Any, context: Context) -> Response:
    """Respond to one message, sealed to the key that signed it.

    raw is a compact JWS, or JSON values. Raises Transient if the database, credentials or storage
    are unreachable.
    """
    with stage("authenticate"):
        config = context.config.current()
        sender = authenticate(raw, config, context.now())
    if isinstance(sender, Rejection):
        values = _reject(raw, raw, sender, context)
        return Response(values, values)
    message, tenant = parse_message(sender.content), sender.tenant
    if isinstance(message, Refusal):
        rejection = Rejection(message, message.code, tenant.id)
        values = _reject(raw, sender.content, rejection, context)
        return _seal(_with_quotas(values, tenant, context), sender)
    annotate(content_attributes(sender.content))
    response = _seal(_run(message, sender, config, context), sender)
    match message:
        case ReissueMessage():
            return response._replace(is_decision=True)
        case BundleMessage(messages=bundled):
            # To trigger deliveries in vain is cheap.
            calls = any(isinstance(raw, dict) and raw.get("callback") for raw in bundled)
            return response._replace(is_decision=True, has_webhook=calls)
        case ListenMessage():
            response = response._replace(has_webhook=True)
        case ChunkMessage(ask="grants"):
            # If others are decided after the last chunk, the next scheduled run finds the manifest.
            is_last = message.first_item + len(message.items) == message.total
            return response._replace(
                is_decision=True,
                has_webhook=called_endpoint(tenant, message) is not None,
                may_complete_manifest=is_last and message.manifest is not None,
            )
    return response


def _run(
    message: AnyMessage, sender: AuthenticatedMessage, config: TenantConfig, context: Context
) -> dict[str, Any]:
    tenant, signing_key = sender.tenant, sender.signing_key
    match message:
        case UsageMessage():
            values = _values(Usage(tenant=tenant.name, quotas=_quotas(tenant, context)))
        case ServiceMessage():
            values = _values(describe_service(tenant.name))
        case CancelMessage():
            values = _values(cancel_batch(message, tenant.id, signing_key, context))
        case BatchMessage():
            values = _with_quotas(reopen_batch(message, tenant.id, context), tenant, context)
        case StatusMessage():
            values = _values(describe_uses(message, tenant.id, context))
        case ListenMessage():
            values = _listen(message, sender, context)
        case ReissueMessage():
            values = reissue_grant(message, sender, config, context)
        case BundleMessage():
            replies = issue_bundle(message, sender, config, context)
            values = {"status": "bundled", "replies": replies}
        case ChunkMessage():
            request = ChunkRequest(message, tenant, signing_key)
            values = (
                _values(explain_request(request, config, context))
                if message.ask == "explain"
                else issue_chunk(request, config, context)
            )
    return values


def _listen(
    message: ListenMessage, sender: AuthenticatedMessage, context: Context
) -> dict[str, Any]:
    """Let a producer listen. Charges and audits nothing: what it hears was, when it was granted."""
    reply: Listening | Refusal
    if sender.key is None:
        text = "listening needs the tenant's key: events are sealed to it"
        reply = refuse(Code.SIGNATURE_REQUIRED, "", text)
    else:
        tenant_id, key = sender.tenant.id, sender.key.name
        with write_transaction(context.engine) as connection:
            reply = register_listener(connection, message, tenant_id, key, context.now())
    return refused_outcome("", 0, reply) if isinstance(reply, Refusal) else _values(reply)


def _quotas(tenant: Tenant, context: Context) -> list[QuotaState]:
    with autocommit_read(context.engine) as connection:
        return read_quota_states(connection, tenant, context.now())


def _with_quotas(values: dict[str, Any], tenant: Tenant, context: Context) -> dict[str, Any]:
    """Add the tenant's quotas to an outcome that charged nothing."""
    if values["status"] not in {"issued", "refused"}:
        return values
    return values | {"quotas": [_values(quota) for quota in _quotas(tenant, context)]}


def _reject(raw: Any, content: Any, rejection: Rejection, context: Context) -> dict[str, Any]:
    # Hashed before the transaction: a large message must not lock the tables for so long.
    digest, now = message_digest(raw), context.now()
    with write_transaction(context.engine) as connection:
        count_rejections(connection, rejection.tenant_id, {rejection.cause: [digest]}, now)
    return refused_outcome(*parse_claimed_chunk(content), rejection.refusal)


def _seal(values: dict[str, Any], sender: AuthenticatedMessage) -> Response:
    if sender.key is None:
        return Response(values, values, sender.tenant.name)
    public_key = build_public_key(sender.key.sign, sender.key.seal)
    token = seal(to_json(values), f"{sender.tenant.name}/{sender.key.name}", public_key)
    return Response(values, token, sender.tenant.name)


def _values(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_none=True)
