"""Verification of webhooks by their receivers (Standard Webhooks 1.0.0), and their content."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Protocol, runtime_checkable

from valetkey.arguments import Moment, Rule, checked
from valetkey.errors import ValetkeyError
from valetkey.wire.strict_json import parse_json

TOLERANCE = timedelta(minutes=5)

_PREFIX = "whsec_"
_MIN_SECRET_BYTES, _MAX_SECRET_BYTES = 24, 64  # the specification's limits
_UNIX_SECONDS = re.compile(r"[0-9]{1,10}")


class InvalidWebhook(ValetkeyError):
    """The request is not a valid webhook. Respond with status 400 and ignore its content."""


@runtime_checkable
class Headers(Protocol):
    """The headers of a request: a mapping, or the class for them of a web framework."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Return the names and values."""


def _have_no_bytes(headers: Headers) -> bool:
    return not any(isinstance(text, bytes) for pair in headers.items() for text in pair)


AnyHeaders = Annotated[
    Headers,
    Rule("names and values of the type str: decode the bytes", _have_no_bytes),
    "a mapping, like the headers of a request",
]


@checked
def verify(
    body: bytes,
    headers: AnyHeaders,
    secret: str | Sequence[str],
    *,
    now: Moment | None = None,
    tolerance: timedelta = TOLERANCE,
) -> dict[str, Any]:
    """Verify a webhook's signature and age, and return its payload.

    body: the raw bytes of the request's body; parsing and re-encoding it breaks the signature.
    headers: the request's headers; the case of their names does not matter.
    secret: `whsec_` and the base64 of 24 to 64 bytes; several secrets during a rotation.
    now: an aware datetime; the current time by default.
    tolerance: the largest accepted difference between webhook-timestamp and now.

    Raises InvalidWebhook if anything is wrong with the request or the secret, and TypeError or
    ValueError for an argument of another type. A webhook can arrive more than once: store its
    `webhook-id` and ignore repeats.
    """
    keys = [_signing_key(text) for text in ([secret] if isinstance(secret, str) else secret)]
    fields = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp, signatures = (
        fields.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature")
    )
    _check_age(timestamp, now or datetime.now(UTC), tolerance)
    _check_signature(keys, _signed_content(message_id, timestamp, body), signatures)
    return _parse_payload(body)


def _signing_key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):  # ValueError: the secret is not ASCII
        key = b""
    has_valid_length = _MIN_SECRET_BYTES <= len(key) <= _MAX_SECRET_BYTES
    if not secret.startswith(_PREFIX) or not has_valid_length:
        raise InvalidWebhook("the secret must be whsec_ and the base64 of 24 to 64 bytes") from None
    return key


def _check_age(timestamp: str, now: datetime, tolerance: timedelta) -> None:
    if not _UNIX_SECONDS.fullmatch(timestamp):
        raise InvalidWebhook("webhook-timestamp is missing or not Unix time in whole seconds")
    # Limits how long an attacker can replay a captured webhook.
    if abs(now - datetime.fromtimestamp(int(timestamp), UTC)) > tolerance:
        raise InvalidWebhook(
            f"webhook-timestamp is too far from now: over {tolerance.total_seconds():g} seconds; "
            f"check this machine's clock"
        )


def _signed_content(message_id: str, timestamp: str, body: bytes) -> bytes:
    # With a dot in the id, one signature would match two different splits of the signed content.
    if not message_id or "." in message_id or not message_id.isascii():
        raise InvalidWebhook("webhook-id is missing, or contains a dot or non-ASCII characters")
    return f"{message_id}.{timestamp}.".encode() + body


def _check_signature(keys: Sequence[bytes], content: bytes, signatures: str) -> None:
    # Compare the encoded text: without decoding there is nothing to fail on. Check every signature,
    # so that an invalid one cannot hide a valid one.
    candidates = [signature.encode("ascii", "replace") for signature in signatures.split()]
    for key in keys:
        digest = hmac.new(key, content, hashlib.sha256).digest()
        expected = b"v1," + base64.b64encode(digest)
        if any(hmac.compare_digest(expected, candidate) for candidate in candidates):
            return
    raise InvalidWebhook(
        "no signature matches: check the endpoint's secret, and that body is the raw request body"
    )


def _parse_payload(body: bytes) -> dict[str, Any]:
    try:
        payload = parse_json(body)
    except ValueError:
        text = "the body is not JSON in UTF-8, or an object in it has a member twice"
        raise InvalidWebhook(text) from None
    if not isinstance(payload, dict):
        raise InvalidWebhook("the body is not a JSON object")
    return payload
