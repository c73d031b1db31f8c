"""Responds to one message: authenticates it, runs its use case, and seals the response."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, get_args

from isal import igzip
from joserfc import jwe
from pydantic_core import to_json

from valetkey.crypto.jose import GZIP, JWE_REGISTRY, MAX_MESSAGE_BYTES, SEALING_ALGORITHMS
from valetkey.crypto.keys import PublicKey, build_public_key
from valetkey.delivery.tracing import content_attributes
from valetkey.wire import RELEASE, messages
from valetkey.wire.messages import AnyMessage, ServiceMessage
from valetkey.wire.parsing import parse_message
from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.replies import ServiceInfo, ServiceLimits
from worker.base.database_engine import autocommit_read, write_transaction
from worker.base.stages import stage
from worker.base.tracing import annotate
from worker.broker.message_guard import MAX_FRAME_BYTES
from worker.clock import MAX_CLOCK_SKEW
from worker.context import Context
from worker.features import resolve
from worker.issue.feature_check import HANDLERS, require_features
from worker.ledger.quota_usage import read_quota_states
from worker.ledger.rejections import count_rejections
from worker.rules.authentication import (
    MAX_MESSAGE_AGE,
    AuthenticatedMessage,
    Rejection,
    authenticate,
    message_digest,
    parse_claimed_chunk,
)
from worker.rules.decisions import Reply, refused_outcome
from worker.rules.grant_kinds import KINDS
from worker.rules.tenant_config import Tenant, TenantConfig

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
        release=RELEASE,
        versions=[messages.VERSION],
        asks=[ask for ask in get_args(messages.Ask) if ask in HANDLERS],
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
    """The response to a message: the reply, and how it is sent.

    message is None unless it could be read, and sender unless it is authenticated.
    """

    reply: Reply
    sent: dict[str, Any] | str
    sender: AuthenticatedMessage | None = None
    message: AnyMessage | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The reply as JSON values."""
        return self.reply.values

    @property
    def tenant(self) -> str | None:
        """The name of the authenticated sender's tenant."""
        return None if self.sender is None else self.sender.tenant.name

    @property
    def outcomes(self) -> Sequence[Reply]:
        """The replies in the response to a bundle, which may be none, or else the only one."""
        return (self.reply,) if self.reply.parts is None else self.reply.parts

    @property
    def expires_at(self) -> datetime | None:
        """The time at which the first grant in the response expires, None without any."""
        return min((each.expires_at for each in self.outcomes if each.expires_at), default=None)


def respond(raw: Any, context: Context) -> Response:
    """Respond to one message, sealed to the key that signed it.

    raw is a compact JWS, or JSON values. Raises Transient if the database, credentials or storage
    are unreachable.
    """
    with stage("authenticate"):
        config = context.config.current()
        sender = authenticate(raw, config, context.now())
    if isinstance(sender, Rejection):
        reply = _reject(raw, raw, sender, context)
        return Response(reply, reply.values)
    message, tenant = require_features(parse_message(sender.content)), sender.tenant
    if isinstance(message, Refusal):
        rejection = Rejection(message, message.code, tenant.id)
        reply = _reject(raw, sender.content, rejection, context)
        quotas = [Reply.of(quota).values for quota in _quotas(tenant, context)]
        return _seal(reply._replace(values=reply.values | {"quotas": quotas}), sender, None)
    annotate(content_attributes(sender.content))
    handle = resolve(HANDLERS[message.ask])
    return _seal(handle(message, sender, config, context), sender, message)


def respond_to_service(
    _message: ServiceMessage, sender: AuthenticatedMessage, _config: TenantConfig, _context: Context
) -> Reply:
    """Describe this release to a tenant."""
    return Reply.of(describe_service(sender.tenant.name))


def _quotas(tenant: Tenant, context: Context) -> list[QuotaState]:
    with autocommit_read(context.engine) as connection:
        return read_quota_states(connection, tenant, context.now())


def _reject(raw: Any, content: Any, rejection: Rejection, context: Context) -> Reply:
    # Hashed before the transaction: a large message must not lock the tables for so long.
    digest, now = message_digest(raw), context.now()
    with write_transaction(context.engine) as connection:
        count_rejections(connection, rejection.tenant_id, {rejection.cause: [digest]}, now)
    return refused_outcome(*parse_claimed_chunk(content), rejection.refusal)


def _seal(reply: Reply, sender: AuthenticatedMessage, message: AnyMessage | None) -> Response:
    if sender.key is None:
        return Response(reply, reply.values, sender, message)
    public_key = build_public_key(sender.key.sign, sender.key.seal)
    token = seal(to_json(reply.values), f"{sender.tenant.name}/{sender.key.name}", public_key)
    return Response(reply, token, sender, message)
