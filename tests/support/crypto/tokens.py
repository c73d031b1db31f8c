"""Messages as producers sign them, answers as they open them, and tokens as nobody should."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tests.support.crypto import keys
from valetkey.crypto.jose import sign, unseal
from valetkey.crypto.keys import PrivateKey
from worker.core.tenants.config import TenantKey


def sign_message(message: Mapping[str, Any], key: PrivateKey, at: datetime) -> str:
    """A message, signed at a moment."""
    return sign(json.dumps({**message, "iat": int(at.timestamp())}).encode(), key)


def open_result(wire: Any, key: PrivateKey) -> dict[str, Any]:
    """What a sealed answer says to the holder of the key."""
    assert isinstance(wire, str)
    said: dict[str, Any] = json.loads(unseal(wire, key))
    return said


def tenant_keys(*given: PrivateKey) -> dict[str, TenantKey]:
    """Keys as their tenant's declaration has them, by name."""
    found = map(keys.tenant_key, given)
    return {key.name: key for key in found}


def forge_token(header: Any, content: bytes, key: PrivateKey) -> str:
    """A token with whatever header, signed by a key nevertheless."""
    text = f"{base64(json.dumps(header).encode())}.{base64(content)}"
    signer: Any = key.signing.get_op_key("sign")
    return f"{text}.{base64(signer.sign(text.encode()))}"


def base64(content: bytes) -> str:
    """Base64url without padding, as RFC 7515 has it."""
    return urlsafe_b64encode(content).decode().rstrip("=")
