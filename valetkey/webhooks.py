"""Verification of webhooks by their receivers (Standard Webhooks 1.0.0), and their content.

Example::

    event = unwrap(body, headers, secrets)  # raises InvalidWebhook: respond with 400
    match event:
        case GrantsDecided(data=data):
            ...  # data.items has grants and refusals
        case UploadStored(data=data):
            ...  # data.uploads has keys and sizes

`help(valetkey.wire.events)` shows the fields of each `data`. `sign` is for the tests of a receiver.
"""

import hashlib
import hmac
import re
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Annotated, Any, Protocol, get_args, runtime_checkable

from cryptography.exceptions import InvalidSignature
from pydantic import ValidationError

from valetkey.arguments import Moment, Rule, checked
from valetkey.crypto.keys import import_verification_key
from valetkey.errors import ValetkeyError
from valetkey.wire.events import (
    AnyEvent,
    BatchCompleted,
    EndpointDisabled,
    EndpointTest,
    GrantsDecided,
    QuotaWarning,
    UnknownEvent,
    UploadMismatched,
    UploadStored,
    UploadUnused,
)
from valetkey.wire.strict_json import decode_base64, parse_json

__all__ = [
    "TOLERANCE", "AnyHeaders", "BatchCompleted", "EndpointDisabled", "EndpointTest", "Event",
    "GrantsDecided", "Headers", "InvalidWebhook", "QuotaWarning", "UnknownEvent",
    "UploadMismatched", "UploadStored", "UploadUnused", "sign", "unwrap",
]  # fmt: skip

TOLERANCE = timedelta(minutes=5)

Event = AnyEvent | UnknownEvent
"""A verified webhook. Select by its type with `match event: case GrantsDecided(): …`."""

_CLASSES = {each.model_fields["type"].default: each for each in get_args(AnyEvent)}
_SECRET_PREFIX, _PUBLIC_KEY_PREFIX = "whsec_", "whpk_"
_MIN_SECRET_BYTES, _MAX_SECRET_BYTES = 24, 64  # the specification's limits
_UNIX_SECONDS = re.compile(r"[0-9]{1,10}")
# With a dot in the id, one signature would match two different splits of the signed content.
_MESSAGE_ID = re.compile(r"[!-\-/-~]{1,255}")


class InvalidWebhook(ValetkeyError):
    """The request is not a valid webhook. Respond with status 400 and ignore its content."""


@runtime_checkable
class Headers(Protocol):
    """The headers of a request: a mapping, or the class for them of a web framework."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Return the names and values."""


def _are_text(headers: Headers) -> bool:
    return all(isinstance(text, str) for pair in headers.items() for text in pair)


AnyHeaders = Annotated[
    Headers,
    Rule("names and values of the type str: decode the bytes", _are_text),
    "a mapping, like the headers of a request",
]


@checked
def unwrap(
    body: bytes,
    headers: AnyHeaders,
    secrets: str | Sequence[str],
    *,
    now: Moment | None = None,
    tolerance: timedelta = TOLERANCE,
) -> Event:
    """Verify a webhook's signature and age, and return its content.

    body: the raw bytes of the request's body; parsing and re-encoding it breaks the signature.
    headers: the request's headers; the case of their names does not matter.
    secrets: the endpoint's secret, `whsec_…`, or the public key of one that signs with `v1a`,
    `whpk_…`. Several during a rotation.
    now: an aware datetime; the current time by default.
    tolerance: the largest accepted difference between webhook-timestamp and now.

    Raises InvalidWebhook if anything is wrong with the request or a secret, and TypeError or
    ValueError for an argument of another type. A webhook can arrive more than once: store the id of
    the event and ignore repeats. Ignore an UnknownEvent as well: a later service sends more types.

    If data.thin of a GrantsDecided is true, its items are not in the webhook. Claim them with
    `client.batch(event.data.batch)`.
    """
    verifiers = [_verifier(text) for text in ([secrets] if isinstance(secrets, str) else secrets)]
    if not verifiers:
        raise InvalidWebhook("there is no secret: check this program's configuration")
    fields = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp, signatures = (
        fields.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature")
    )
    _check_age(timestamp, now or datetime.now(UTC), tolerance)
    if not _MESSAGE_ID.fullmatch(message_id):
        text = "webhook-id is missing, or not 1 to 255 printable ASCII characters without a dot"
        raise InvalidWebhook(text)
    _check_signatures(signatures, _signed_content(message_id, timestamp, body), verifiers)
    return _parse_event(message_id, body)


@checked
def sign(body: bytes, message_id: str, timestamp: Moment, secret: str) -> dict[str, str]:
    """Return the headers with which unwrap accepts a body, for the tests of a receiver.

    message_id: the `webhook-id`; timestamp: an aware datetime; secret: `whsec_…`.
    """
    key, seconds = _hmac_key(secret), str(int(timestamp.timestamp()))
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": _hmac_signature(key, _signed_content(message_id, seconds, body)),
    }


_Verifier = Callable[[str, bytes], bool]


def _verifier(secret: str) -> _Verifier:
    """Return a function that says whether a secret or public key made a signature."""
    if not secret.startswith(_PUBLIC_KEY_PREFIX):
        # Once for a body: anybody may send thousands of signatures.
        expected = cache(partial(_hmac_signature, _hmac_key(secret)))
        # Compare the encoded text: without decoding there is nothing to fail on.
        return lambda signature, content: hmac.compare_digest(
            expected(content).encode(), signature.encode("ascii", "replace")
        )
    try:
        x = urlsafe_b64encode(decode_base64(secret.removeprefix(_PUBLIC_KEY_PREFIX)))
        public_key: Any = import_verification_key(x.decode().removesuffix("=")).public_key
    except ValueError:
        text = "the public key must be whpk_ and the base64 of an Ed25519 key, 32 bytes"
        raise InvalidWebhook(text) from None
    return lambda signature, content: _is_ed25519_signature(public_key, signature, content)


def _check_signatures(signatures: str, content: bytes, verifiers: Sequence[_Verifier]) -> None:
    if not signatures:
        raise InvalidWebhook("webhook-signature is missing")
    # Check every signature, so that an invalid one cannot hide a valid one.
    if not any(verify(each, content) for each in signatures.split() for verify in verifiers):
        raise InvalidWebhook(
            "no signature matches: check the endpoint's secret, and that body is the raw request "
            "body"
        )


def _is_ed25519_signature(public_key: Any, signature: str, content: bytes) -> bool:
    version, _, text = signature.partition(",")
    try:
        public_key.verify(decode_base64(text), content)
    except (InvalidSignature, ValueError):
        return False
    return version == "v1a"


def _hmac_key(secret: str) -> bytes:
    try:
        key = b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    has_valid_length = _MIN_SECRET_BYTES <= len(key) <= _MAX_SECRET_BYTES
    if not secret.startswith(_SECRET_PREFIX) or not has_valid_length:
        text = "the secret must be whsec_ and the base64 of 24 to 64 bytes, without whitespace"
        raise InvalidWebhook(text) from None
    return key


def _hmac_signature(key: bytes, content: bytes) -> str:
    return "v1," + b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def _signed_content(message_id: str, timestamp: str, body: bytes) -> bytes:
    return f"{message_id}.{timestamp}.".encode() + body


def _check_age(timestamp: str, now: datetime, tolerance: timedelta) -> None:
    if not _UNIX_SECONDS.fullmatch(timestamp):
        raise InvalidWebhook("webhook-timestamp is missing or not Unix time in whole seconds")
    # Limits how long an attacker can replay a captured webhook.
    if abs(now - datetime.fromtimestamp(int(timestamp), UTC)) > tolerance:
        raise InvalidWebhook(
            f"webhook-timestamp is too far from now: over {tolerance.total_seconds():g} seconds; "
            f"check this machine's clock"
        )


def _parse_event(message_id: str, body: bytes) -> Event:
    try:
        payload = parse_json(body)
    except ValueError:
        text = "the body is not JSON in UTF-8, or an object in it has a member twice"
        raise InvalidWebhook(text) from None
    if not isinstance(payload, dict):
        raise InvalidWebhook("the body is not a JSON object")
    name = payload.get("type")
    event_class = _CLASSES.get(name, UnknownEvent) if isinstance(name, str) else UnknownEvent
    try:
        event: Event = event_class.model_validate(payload)
    except ValidationError as error:
        # Deeper steps may be names that the body has.
        path = ".".join(map(str, error.errors(include_input=False)[0]["loc"][:3]))
        raise InvalidWebhook(f"the body is not a webhook: {path} is missing or invalid") from None
    event._id = message_id  # noqa: SLF001 - only here is it known
    return event
