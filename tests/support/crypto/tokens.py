"""Tokens in tests: signed messages, unsealed results and forged tokens."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from valetkey.crypto.jose import sign, unseal
from valetkey.crypto.keys import PrivateKey, PublicKey, build_public_key
from worker.rules.tenant_config import TenantKey


def tenant_key(key: PrivateKey) -> TenantKey:
    """Return a key as it is listed in the tenant config."""
    sign = str(key.signing_key.as_dict(private=False)["x"])
    seal = str(key.decryption_key.as_dict(private=False)["x"])
    return TenantKey(key.id.partition("/")[2], sign, seal)


def public_key(key: PrivateKey) -> PublicKey:
    """Return the public half of a key, which verifies and encrypts."""
    listed = tenant_key(key)
    return build_public_key(listed.sign, listed.seal)


def sign_message(message: Mapping[str, Any], key: PrivateKey, now: datetime) -> str:
    """Return a message signed at a moment."""
    return sign(json.dumps({**message, "iat": int(now.timestamp())}).encode(), key)


def unseal_result(token: Any, key: PrivateKey) -> dict[str, Any]:
    """Decrypt a sealed result and parse its JSON."""
    assert isinstance(token, str)
    result: dict[str, Any] = json.loads(unseal(token, key))
    return result


def tenant_keys(*keys: PrivateKey) -> dict[str, TenantKey]:
    """Return keys by name, as they are listed in the tenant config."""
    return {listed.name: listed for listed in map(tenant_key, keys)}


def forge_token(header: Any, payload: bytes, key: PrivateKey) -> str:
    """Return a token with any header, however invalid, and a valid signature."""
    signing_input = f"{base64url(json.dumps(header).encode())}.{base64url(payload)}"
    signer: Any = key.signing_key.get_op_key("sign")
    return f"{signing_input}.{base64url(signer.sign(signing_input.encode()))}"


def base64url(content: bytes) -> str:
    """Return base64url without padding (RFC 7515, section 2)."""
    return urlsafe_b64encode(content).decode().rstrip("=")
