"""Authenticates messages: verifies signatures before any other part of a message is used."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pydantic_core import from_json

from valetkey.crypto.jose import (
    MAX_MESSAGE_BYTES,
    InvalidToken,
    SignedToken,
    TokenTooLarge,
    WrongAlgorithm,
    WrongKey,
)
from valetkey.crypto.keys import build_public_key
from valetkey.wire.refusals import Code, Refusal
from worker.core.tenants.config import Tenant, TenantConfig, TenantKey

MAX_MESSAGE_AGE = 86_400
"""The largest age of a message in seconds. A queue that stopped for a day can still be consumed."""

MAX_CLOCK_SKEW = 60
"""The largest time in seconds by which a producer's clock may be ahead."""


class AuthenticatedMessage(NamedTuple):
    """The content of an accepted message, and the tenant and key that it is from.

    key is None for an unsigned message of a tenant that trusts the queue. tenant is None, too, if
    an unsigned message names no configured tenant.
    """

    content: Any
    tenant: Tenant | None
    key: TenantKey | None

    @property
    def name(self) -> str | None:
        """The tenant's name."""
        return None if self.tenant is None else self.tenant.name


class Rejection(NamedTuple):
    """The refusal of an unauthenticated message.

    tenant_id is that of the configured tenant that the message claims to be from, or None.
    """

    refusal: Refusal
    tenant_id: str | None


def authenticate(raw: Any, config: TenantConfig, now: datetime) -> AuthenticatedMessage | Rejection:
    """Verify the signature of a message, or accept it unsigned if its tenant trusts the queue.

    raw is the body from the queue: a compact JWS (RFC 7515), or the message as JSON values. An
    unsigned message that names no configured tenant is passed on with tenant None, because only
    parsing finds out what is wrong with it. The caller must not act on it.
    """
    if isinstance(raw, str):
        return _authenticate_token(raw, config, now)
    name = raw.get("tenant") if isinstance(raw, Mapping) else None
    tenant = config.tenants.get(name) if isinstance(name, str) else None
    if tenant is not None and tenant.trust != "queue":
        text = "this tenant's messages must be signed: configure the client with the tenant's key"
        return _reject(Code.SIGNATURE_REQUIRED, "", text, tenant)
    return AuthenticatedMessage(raw, tenant, None)


def _authenticate_token(
    token: str, config: TenantConfig, now: datetime
) -> AuthenticatedMessage | Rejection:
    signed_token = _parse_token(token)
    if isinstance(signed_token, Rejection):
        return signed_token
    tenant, key = _find_key(signed_token.key_id, config)
    if tenant is None or key is None:
        text = "no key of this id is configured: kid is TENANT/NAME, as in tenants.toml"
        return _reject(Code.KEY_UNKNOWN, "kid", text, tenant)
    rejection = _check_key(tenant, key, now)
    if rejection is not None:
        return rejection
    try:
        payload = signed_token.verify(build_public_key(key.sign, key.seal))
    except WrongKey:
        text = "the signature does not match the key that kid names, or the message was altered"
        return _reject(Code.SIGNATURE_INVALID, "", text, tenant)
    except InvalidToken:
        text = "the token's header is not valid for a JWS"
        return _reject(Code.TOKEN_INVALID, "", text, tenant)
    return _check_claims(payload, tenant, key, now)


def _parse_token(token: str) -> SignedToken | Rejection:
    try:
        return SignedToken(token)
    except TokenTooLarge:
        text = (
            f"the token is too large: a message has at most {MAX_MESSAGE_BYTES:,} bytes before"
            " base64; send fewer items in one message"
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
        content = _parse_json(payload)
    except (ValueError, RecursionError):
        return _reject(Code.TOKEN_INVALID, "", "the signed payload is not valid JSON", tenant)
    if not isinstance(content, dict):
        return _reject(Code.TOKEN_INVALID, "", "the signed payload is not a JSON object", tenant)
    rejection = _check_issue_time(content.pop("iat", None), tenant, now)
    if rejection is not None:
        return rejection
    if content.get("tenant") != tenant.name:
        text = "the message names another tenant than the key's"
        return _reject(Code.TENANT_MISMATCH, "tenant", text, tenant, tenant.name)
    return AuthenticatedMessage(content, tenant, key)


def _parse_json(payload: bytes) -> Any:
    """Parse JSON. The last of duplicate members counts, here and in all later steps."""
    try:
        return from_json(payload, allow_inf_nan=False)
    except ValueError:
        # An object key may contain a lone surrogate, which only Python's json accepts. This way
        # only that item is refused later, and not the whole batch.
        return json.loads(payload.decode(), parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


def _check_issue_time(iat: Any, tenant: Tenant, now: datetime) -> Rejection | None:
    if type(iat) is not int or iat < 0:
        text = "iat must be the time of signing, in whole seconds of Unix time"
        return _reject(Code.CLAIM_MISSING, "iat", text, tenant)
    age = int(now.timestamp()) - iat
    if age > MAX_MESSAGE_AGE:
        text = f"the message was signed more than {MAX_MESSAGE_AGE:,} seconds ago: sign it again"
        return _reject(Code.MESSAGE_EXPIRED, "iat", text, tenant, MAX_MESSAGE_AGE)
    if _precedes_tenant(iat, tenant):
        text = "the message was signed for a removed tenant of the same name: sign it again"
        return _reject(Code.MESSAGE_EXPIRED, "iat", text, tenant)
    if age < -MAX_CLOCK_SKEW:
        text = (
            f"the message was signed more than {MAX_CLOCK_SKEW} seconds in the future: correct the"
            " clock of the producer or of the service"
        )
        return _reject(Code.MESSAGE_FROM_FUTURE, "iat", text, tenant, MAX_CLOCK_SKEW)
    return None


def _precedes_tenant(iat: int, tenant: Tenant) -> bool:
    """Tell whether a message is of the removed tenant that had the name and perhaps the key before.

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
    return Rejection(refusal, tenant.id if tenant else None)
