"""What the service makes of tokens of tenants whose keys these are."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tests.requests import message
from tests.signed import declared as public
from tests.signed import token
from tests.speaking import OURS, SPARE, holding
from valetkey.identity import generate
from valetkey.refusals import UNAUTHENTICATED
from worker.core.identity import Genuine, Rejected, authenticate

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
IAT = int(NOW.timestamp())
OLD, LOST = generate("acme/old"), generate("acme/lost")
DECLARED = holding(
    public(OURS, SPARE)
    | {name: replace(key, expires=NOW) for name, key in public(OLD).items()}
    | {name: replace(key, revoked=True) for name, key in public(LOST).items()}
)
ASKED = message()
GENUINE = token(ASKED, OURS, NOW)
HEADER = {"alg": "Ed25519", "kid": OURS.id}


def judged(raw: Any) -> Genuine | Rejected:
    return authenticate(raw, DECLARED, NOW)


def refused(raw: Any) -> tuple[str, str]:
    found = judged(raw)
    assert isinstance(found, Rejected)
    assert found.refusal.code in UNAUTHENTICATED
    return found.refusal.code.value, found.refusal.field


def content(**changes: Any) -> bytes:
    """What is signed, changed before it is."""
    return json.dumps(ASKED | {"iat": IAT} | changes).encode()
