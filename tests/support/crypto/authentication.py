"""Authentication of tokens under a tenant config with valid, expired and revoked keys."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tests.support.builders.messages import grant_message
from tests.support.crypto.tenants import ACME_KEY, ACME_SPARE_KEY, config_with_tenant_keys
from tests.support.crypto.tokens import sign_message, tenant_keys
from valetkey.crypto.keys import generate_key
from valetkey.wire.refusals import UNAUTHENTICATED
from worker.rules.authentication import AuthenticatedMessage, Rejection, authenticate

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
IAT = int(NOW.timestamp())
EXPIRED_KEY, REVOKED_KEY = generate_key("acme/old"), generate_key("acme/lost")
CONFIG = config_with_tenant_keys(
    tenant_keys(ACME_KEY, ACME_SPARE_KEY)
    | {name: replace(key, expires=NOW) for name, key in tenant_keys(EXPIRED_KEY).items()}
    | {name: replace(key, revoked=True) for name, key in tenant_keys(REVOKED_KEY).items()}
)
MESSAGE = grant_message()
VALID_TOKEN = sign_message(MESSAGE, ACME_KEY, NOW)
HEADER = {"alg": "Ed25519", "kid": ACME_KEY.id}


def authenticate_token(raw: Any) -> AuthenticatedMessage | Rejection:
    """Authenticate what came from the queue, under CONFIG at NOW."""
    return authenticate(raw, CONFIG, NOW)


def rejection_of(raw: Any) -> tuple[str, str]:
    """Return the code and field of a rejection; fail if raw is authenticated."""
    result = authenticate_token(raw)
    assert isinstance(result, Rejection)
    assert result.refusal.code in UNAUTHENTICATED
    return str(result.refusal.code), result.refusal.field


def payload(**changes: Any) -> bytes:
    """Return MESSAGE with an iat and with changes, encoded for signing."""
    return json.dumps(MESSAGE | {"iat": IAT} | changes).encode()
