"""Who asks: a message's signature held against the tenants' keys, before anything else is read."""

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
from valetkey.crypto.keys import load_public_key
from valetkey.wire.refusals import Code, Refusal
from worker.core.tenants.config import Tenant, TenantConfig, TenantKey

MAX_MESSAGE_AGE = 86_400
"""How old a message may be, in seconds: a queue that stood still for a day is worked off yet."""

MAX_CLOCK_SKEW = 60
"""How far a producer's clock may be ahead, in seconds."""


class Authenticated(NamedTuple):
    """What was asked, by which tenant and key; without a key the queue vouches for it."""

    content: Any
    tenant: Tenant | None
    key: TenantKey | None

    @property
    def name(self) -> str | None:
        """The tenant's name."""
        return None if self.tenant is None else self.tenant.name


class Rejection(NamedTuple):
    """A message that nobody is known to have sent; tenant is the declared one that it named."""

    refusal: Refusal
    tenant: str | None


def authenticate(raw: Any, declared: TenantConfig, now: datetime) -> Authenticated | Rejection:
    """Find out who asks: by the signature of a token, or by the queue for tenants that trust it.

    raw is what came off the wire: a compact JWS, or the message itself as JSON values. What is no
    token is passed on where it names no tenant that signs, as it has to be read to say more.
    """
    if isinstance(raw, str):
        return _signed(raw, declared, now)
    name = raw.get("tenant") if isinstance(raw, Mapping) else None
    tenant = declared.tenants.get(name) if isinstance(name, str) else None
    if tenant is not None and tenant.trust != "queue":
        text = "messages of this tenant are signed: give the client its key"
        return _reject(Code.SIGNATURE_REQUIRED, "", text, tenant)
    return Authenticated(raw, tenant, None)


def _reject(
    code: Code,
    field: str,
    message: str,
    tenant: Tenant | None = None,
    limit: int | str | list[str] | None = None,
) -> Rejection:
    refusal = Refusal(code=code, field=field, message=message, limit=limit)
    return Rejection(refusal, tenant.name if tenant else None)


def _signed(token: str, declared: TenantConfig, now: datetime) -> Authenticated | Rejection:
    signed = _apart(token)
    if isinstance(signed, Rejection):
        return signed
    tenant, key = _named(signed.key_id, declared)
    if tenant is None or key is None:
        return _reject(Code.KEY_UNKNOWN, "kid", _NO_KEY, tenant)
    refusal = _unusable(tenant, key, now)
    if refusal is not None:
        return refusal
    try:
        content = signed.content(load_public_key(key.sign, key.seal))
    except WrongKey:
        return _reject(Code.SIGNATURE_INVALID, "", "not signed by the key that it names", tenant)
    except InvalidToken:
        return _reject(Code.TOKEN_INVALID, "", "its header is not that of a JWS", tenant)
    return _claims(content, tenant, key, now)


def _apart(token: str) -> SignedToken | Rejection:
    try:
        return SignedToken(token)
    except TokenTooLarge:
        return _reject(Code.TOKEN_TOO_LARGE, "", "larger than any message", limit=MAX_MESSAGE_BYTES)
    except WrongAlgorithm:
        text = "messages are signed with Ed25519"
        return _reject(Code.ALGORITHM_NOT_ALLOWED, "alg", text, limit=["Ed25519", "EdDSA"])
    except InvalidToken:
        return _reject(Code.TOKEN_INVALID, "", "this is not a compact JWS")


_NO_KEY = "no such key is declared: kid is TENANT/NAME"


def _named(key_id: Any, declared: TenantConfig) -> tuple[Tenant | None, TenantKey | None]:
    name, _, of_key = key_id.partition("/") if isinstance(key_id, str) else ("", "", "")
    tenant = declared.tenants.get(name)
    return tenant, None if tenant is None else tenant.keys.get(of_key)


def _unusable(tenant: Tenant, key: TenantKey, now: datetime) -> Rejection | None:
    if key.revoked:
        return _reject(Code.KEY_REVOKED, "kid", "this key is revoked", tenant)
    if key.expires is not None and key.expires <= now:
        text = "this key has expired"
        return _reject(Code.KEY_EXPIRED, "kid", text, tenant, key.expires.isoformat())
    return None


def _claims(
    signed: bytes, tenant: Tenant, key: TenantKey, now: datetime
) -> Authenticated | Rejection:
    """Hold what was signed against who signed it and when; iat is of the token, not the message."""
    try:
        content = _read(signed)
    except (ValueError, RecursionError):
        return _reject(Code.TOKEN_INVALID, "", "what was signed is not JSON", tenant)
    if not isinstance(content, dict):
        return _reject(Code.TOKEN_INVALID, "", "what was signed is not an object", tenant)
    refusal = _untimely(content.pop("iat", None), tenant, now)
    if refusal is not None:
        return refusal
    if content.get("tenant") != tenant.name:
        text = "the key speaks for another tenant"
        return _reject(Code.TENANT_MISMATCH, "tenant", text, tenant, tenant.name)
    return Authenticated(content, tenant, key)


def _read(signed: bytes) -> Any:
    """Read JSON; of members that come twice the last one counts, here and for all that follows."""
    try:
        return from_json(signed, allow_inf_nan=False)
    except ValueError:
        # A key may hold half a character, which only Python's JSON reads: the key is refused, and
        # the batch goes on.
        return json.loads(signed.decode(), parse_constant=_no_number)


def _no_number(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


def _untimely(issued: Any, tenant: Tenant, now: datetime) -> Rejection | None:
    if type(issued) is not int or issued < 0:
        text = "iat says when it was signed, in whole seconds of Unix time"
        return _reject(Code.CLAIM_MISSING, "iat", text, tenant)
    age = int(now.timestamp()) - issued
    if age > MAX_MESSAGE_AGE:
        text = "signed too long ago, in seconds"
        return _reject(Code.MESSAGE_EXPIRED, "iat", text, tenant, MAX_MESSAGE_AGE)
    if age < -MAX_CLOCK_SKEW:
        text = "signed in the future: the clock of one side is wrong by more than so many seconds"
        return _reject(Code.MESSAGE_FROM_FUTURE, "iat", text, tenant, MAX_CLOCK_SKEW)
    return None
