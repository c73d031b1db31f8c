"""Authenticates messages: verifies signatures before any other part of a message is used."""

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

from valetkey.crypto.jose import (
    MAX_MESSAGE_BYTES,
    InvalidToken,
    SignedToken,
    TokenTooLarge,
    WrongAlgorithm,
    WrongKey,
)
from valetkey.crypto.keys import build_public_key
from valetkey.signing import object_keys
from valetkey.units import describe_duration, describe_size
from valetkey.wire.messages import MAX_BATCH_ITEMS
from valetkey.wire.parsing import parse_message
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.strict_json import parse_json
from valetkey.wire.terms import NAME_PATTERN
from worker.clock import MAX_CLOCK_SKEW
from worker.rules.tenant_config import Tenant, TenantConfig, TenantKey

MAX_MESSAGE_AGE = 86_400
"""The largest age of a message in seconds. A queue that stopped for a day can still be consumed."""

_IS_NAME = re.compile(NAME_PATTERN).fullmatch
_NOBODYS_KEY = tuple(
    urlsafe_b64encode(point).decode().rstrip("=")
    for point in (b"\x58" + b"\x66" * 31, b"\x09" + bytes(31))
)
"""The key that is verified against if kid names none: the base points of both curves.

Anybody can sign for it (RFC 8032, RFC 7748), so it must never authenticate a message.
"""

_SIGNATURE_REQUIRED = Refusal(
    code=Code.SIGNATURE_REQUIRED,
    field="",
    message=(
        "no tenant of this name accepts unsigned messages: check the name, and configure the client"
        " with the tenant's key"
    ),
)
_SIGNATURE_INVALID = Refusal(
    code=Code.SIGNATURE_INVALID,
    field="",
    message=(
        "no key of this id made this signature: check that kid is TENANT/NAME as in tenants.toml,"
        " that the key was applied, and that the message was not altered"
    ),
)


class AuthenticatedMessage(NamedTuple):
    """The content of an accepted message, and the tenant and key that it is from.

    key is None for an unsigned message of a tenant that trusts the queue.
    """

    content: Any
    tenant: Tenant
    key: TenantKey | None

    @property
    def signing_key(self) -> str | None:
        """The name of the key that signed the message."""
        return None if self.key is None else self.key.name


class Rejection(NamedTuple):
    """The rejection of a message without a known sender.

    refusal is the answer to the sender. It must not reveal which tenants and keys exist.
    cause is the precise code, which is counted for operators only. tenant_id is that of the
    configured tenant that the message claims to be from, or None.
    """

    refusal: Refusal
    cause: str
    tenant_id: str | None


def authenticate(raw: Any, config: TenantConfig, now: datetime) -> AuthenticatedMessage | Rejection:
    """Verify the signature of a message, or accept it unsigned if its tenant trusts the queue.

    raw is the body from the queue: a compact JWS (RFC 7515), or the message as JSON values. An
    unsigned message is refused for a tenant that does not exist exactly as for one that requires
    signatures, whatever else is wrong with it.
    """
    if isinstance(raw, str):
        return _authenticate_token(raw, config, now)
    name = raw.get("tenant") if isinstance(raw, Mapping) else None
    tenant = config.tenants.get(name) if isinstance(name, str) else None
    if tenant is not None and tenant.trust == "queue":
        return AuthenticatedMessage(raw, tenant, None)
    if tenant is None and not (isinstance(name, str) and _IS_NAME(name)):
        refusal = parse_message(raw)  # always a refusal, because every message names a tenant
        if isinstance(refusal, Refusal):
            return Rejection(refusal, refusal.code, None)
    cause = Code.TENANT_UNKNOWN if tenant is None else Code.SIGNATURE_REQUIRED
    return _reject_as(_SIGNATURE_REQUIRED, cause, tenant)


def _authenticate_token(
    token: str, config: TenantConfig, now: datetime
) -> AuthenticatedMessage | Rejection:
    signed_token = _parse_token(token)
    if isinstance(signed_token, Rejection):
        return signed_token
    tenant, key = _find_key(signed_token.key_id, config)
    # Always verified, against some key: neither the answer nor its time reveals which keys exist.
    halves = _NOBODYS_KEY if key is None else (key.sign, key.seal)
    try:
        payload = signed_token.verify(build_public_key(*halves))
    except WrongKey:
        cause = Code.KEY_UNKNOWN if key is None else Code.SIGNATURE_INVALID
        return _reject_as(_SIGNATURE_INVALID, cause, tenant)
    except InvalidToken:
        text = "the token's header is not valid for a JWS"
        return _reject(Code.TOKEN_INVALID, "", text, tenant)
    if tenant is None or key is None:  # anybody can sign for _NOBODYS_KEY
        return _reject_as(_SIGNATURE_INVALID, Code.KEY_UNKNOWN, tenant)
    return _check_key(tenant, key, now) or _check_claims(payload, tenant, key, now)


def _parse_token(token: str) -> SignedToken | Rejection:
    try:
        return SignedToken(token)
    except TokenTooLarge:
        text = (
            f"the token is too large: a message has at most {describe_size(MAX_MESSAGE_BYTES)}"
            " before base64; send fewer items in one message"
        )
        return _reject(Code.TOKEN_TOO_LARGE, "", text, limit=MAX_MESSAGE_BYTES)
    except WrongAlgorithm:
        text = "messages must be signed with Ed25519: write alg as Ed25519 or EdDSA"
        return _reject(Code.ALGORITHM_NOT_ALLOWED, "alg", text, limit=["Ed25519", "EdDSA"])
    except InvalidToken:
        text = "this text is not a compact JWS: header.payload.signature in base64url"
        return _reject(Code.TOKEN_INVALID, "", text)


def _find_key(key_id: Any, config: TenantConfig) -> tuple[Tenant | None, TenantKey | None]:
    tenant_name, _, key_name = key_id.partition("/") if isinstance(key_id, str) else ("", "", "")
    tenant = config.tenants.get(tenant_name)
    return tenant, None if tenant is None else tenant.keys.get(key_name)


def _check_key(tenant: Tenant, key: TenantKey, now: datetime) -> Rejection | None:
    if key.revoked:
        text = "this key is revoked: sign with another key of the tenant"
        return _reject(Code.KEY_REVOKED, "kid", text, tenant)
    if key.expires is not None and key.expires <= now:
        text = "this key has expired: sign with another key of the tenant"
        return _reject(Code.KEY_EXPIRED, "kid", text, tenant, key.expires.isoformat())
    return None


def _check_claims(
    payload: bytes, tenant: Tenant, key: TenantKey, now: datetime
) -> AuthenticatedMessage | Rejection:
    """Check the issue time and the tenant. iat belongs to the token, and is not passed on."""
    try:
        content = parse_json(payload)
    except ValueError:
        text = "the signed payload is not JSON in UTF-8, or an object in it has a member twice"
        return _reject(Code.TOKEN_INVALID, "", text, tenant)
    if not isinstance(content, dict):
        return _reject(Code.TOKEN_INVALID, "", "the signed payload is not a JSON object", tenant)
    rejection = _check_issue_time(content.pop("iat", None), tenant, now)
    if rejection is not None:
        return rejection
    if content.get("tenant") != tenant.name:
        text = "the message names another tenant than the key's"
        return _reject(Code.TENANT_MISMATCH, "tenant", text, tenant, tenant.name)
    return AuthenticatedMessage(content, tenant, key)


def _check_issue_time(iat: Any, tenant: Tenant, now: datetime) -> Rejection | None:
    if type(iat) is not int or iat < 0:
        text = "iat must be the time of signing, in whole seconds of Unix time"
        return _reject(Code.CLAIM_MISSING, "iat", text, tenant)
    age = int(now.timestamp()) - iat
    if age > MAX_MESSAGE_AGE:
        text = (
            f"the message was signed more than {describe_duration(MAX_MESSAGE_AGE)} ago: sign again"
        )
        return _reject(Code.MESSAGE_EXPIRED, "iat", text, tenant, MAX_MESSAGE_AGE)
    if _precedes_tenant(iat, tenant):
        text = "the message was signed for a removed tenant of the same name: sign it again"
        return _reject(Code.MESSAGE_EXPIRED, "iat", text, tenant)
    if age < -MAX_CLOCK_SKEW:
        text = (
            f"the message was signed more than {describe_duration(MAX_CLOCK_SKEW)} in the future:"
            " correct the clock of the producer or of the service"
        )
        return _reject(Code.MESSAGE_FROM_FUTURE, "iat", text, tenant, MAX_CLOCK_SKEW)
    return None


def _precedes_tenant(iat: int, tenant: Tenant) -> bool:
    """Return true if a message is of a removed tenant that had the name and perhaps the key.

    A first tenant of a name replaces nobody, so the clocks of its producers may be late.
    """
    created_at = tenant.created_at if tenant.replaces_another else None
    return created_at is not None and iat < int(created_at.timestamp())


def _reject(
    code: Code,
    field: str,
    message: str,
    tenant: Tenant | None = None,
    limit: int | str | list[str] | None = None,
) -> Rejection:
    refusal = Refusal(code=code, field=field, message=message, limit=limit)
    return _reject_as(refusal, code, tenant)


def _reject_as(refusal: Refusal, cause: str, tenant: Tenant | None) -> Rejection:
    return Rejection(refusal, cause, tenant.id if tenant else None)


_MAX_ID_LENGTH = 36  # characters of a UUID: longer invalid ids are cut


def message_digest(raw: Any) -> bytes:
    """Return the SHA-256 of a message, which is the same for equal messages.

    raw is a token, or JSON values. All messages that are nested too deeply have the same digest.
    """
    try:
        text = raw if isinstance(raw, str) else json.dumps(raw, sort_keys=True, default=str)
    except RecursionError:
        text = "nested deeper than can be written"
    return sha256(text.encode(errors="surrogatepass")).digest()


def parse_claimed_chunk(content: Any) -> tuple[str, int]:
    """Return the batch and chunk that a message claims, for the response to its sender.

    The sender finds the response by the id of the task. The batch and chunk are additional help,
    and not verified. The batch is printable and at most 36 characters long, the chunk is a valid
    chunk number. They are "" and 0 if the message has no readable value.
    """
    fields = content if isinstance(content, Mapping) else {}
    batch, chunk = fields.get("batch"), fields.get("chunk")
    return (
        object_keys.printable_key(batch)[:_MAX_ID_LENGTH] if isinstance(batch, str) else "",
        chunk if type(chunk) is int and 0 <= chunk < MAX_BATCH_ITEMS else 0,
    )
