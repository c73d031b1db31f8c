"""Verification of valetkey's webhooks, for those who receive them (Standard Webhooks 1.0.0)."""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from valetkey.errors import ValetkeyError

TOLERANCE = timedelta(minutes=5)

_PREFIX = "whsec_"
_SECONDS = re.compile(r"[0-9]{1,10}")


class InvalidWebhook(ValetkeyError):
    """Not a webhook of ours: refuse it with status 400 and do nothing else with it."""


def verify(
    body: bytes,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    now: datetime | None = None,
    tolerance: timedelta = TOLERANCE,
) -> dict[str, Any]:
    """Check a webhook's signature and age, and return its payload.

    `body` is the request's body as it came, not parsed and printed again. `secret` is `whsec_` and
    the base64 of 24 to 64 bytes, or several during a rotation. `now`, with a zone, is the current
    time unless given. Whatever is wrong, InvalidWebhook is raised. A webhook may come twice: keep
    its `webhook-id` and ignore what you know.
    """
    keys = [_key(text) for text in ([secret] if isinstance(secret, str) else secret)]
    fields = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp, signatures = (
        fields.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature")
    )
    _check_age(timestamp, now or datetime.now(UTC), tolerance)
    _check_signature(keys, _signed_content(message_id, timestamp, body), signatures)
    return _payload(body)


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        key = b""
    if not secret.startswith(_PREFIX) or not 24 <= len(key) <= 64:  # noqa: PLR2004 - the specification's bounds
        raise InvalidWebhook("the secret must be whsec_ and the base64 of 24 to 64 bytes") from None
    return key


def _check_age(timestamp: str, now: datetime, tolerance: timedelta) -> None:
    if not _SECONDS.fullmatch(timestamp):
        raise InvalidWebhook("webhook-timestamp is missing or not in seconds")
    # A captured webhook can be replayed no longer than this.
    if abs(now - datetime.fromtimestamp(int(timestamp), UTC)) > tolerance:
        raise InvalidWebhook("webhook-timestamp is too far from now")


def _signed_content(message_id: str, timestamp: str, body: bytes) -> bytes:
    # A dot in the id would let one signature fit two splits into id, timestamp and body.
    if not message_id or "." in message_id or not message_id.isascii():
        raise InvalidWebhook("webhook-id is missing or malformed")
    return f"{message_id}.{timestamp}.".encode() + body


def _check_signature(keys: Sequence[bytes], content: bytes, signatures: str) -> None:
    # Compared as text: what is never decoded cannot be malformed. One that does not match says
    # nothing about the next, so junk hides no valid one.
    offered = [signature.encode("ascii", "replace") for signature in signatures.split()]
    for key in keys:
        digest = hmac.new(key, content, hashlib.sha256).digest()
        expected = b"v1," + base64.b64encode(digest)
        if any(hmac.compare_digest(expected, signature) for signature in offered):
            return
    raise InvalidWebhook("no signature matches")


def _payload(body: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise InvalidWebhook("the body is not JSON in UTF-8") from None
    if not isinstance(payload, dict):
        raise InvalidWebhook("the body is not a JSON object")
    return payload
