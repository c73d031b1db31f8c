"""What the service makes of tokens of tenants whose keys these are."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tests.support.builders.messages import grant_message
from tests.support.crypto.tenants import OURS, SPARE, config_with_tenant_keys
from tests.support.crypto.tokens import sign_message
from tests.support.crypto.tokens import tenant_keys as public
from valetkey.crypto.keys import generate_key
from valetkey.wire.refusals import UNAUTHENTICATED
from worker.core.auth.authenticate import Authenticated, Rejection, authenticate

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
IAT = int(NOW.timestamp())
OLD, LOST = generate_key("acme/old"), generate_key("acme/lost")
CONFIG = config_with_tenant_keys(
    public(OURS, SPARE)
    | {name: replace(key, expires=NOW) for name, key in public(OLD).items()}
    | {name: replace(key, revoked=True) for name, key in public(LOST).items()}
)
MESSAGE = grant_message()
VALID_TOKEN = sign_message(MESSAGE, OURS, NOW)
HEADER = {"alg": "Ed25519", "kid": OURS.id}


def authenticate_token(raw: Any) -> Authenticated | Rejection:
    return authenticate(raw, CONFIG, NOW)


def rejection_of(raw: Any) -> tuple[str, str]:
    found = authenticate_token(raw)
    assert isinstance(found, Rejection)
    assert found.refusal.code in UNAUTHENTICATED
    return found.refusal.code.value, found.refusal.field


def content(**changes: Any) -> bytes:
    """What is signed, changed before it is."""
    return json.dumps(MESSAGE | {"iat": IAT} | changes).encode()
