"""Signatures by Standard Webhooks 1.0.0, whose library signs; what it lets pass is refused here."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from standardwebhooks import Webhook

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix that all secrets share
MIN_KEY_BYTES = 24
MAX_KEY_BYTES = 64


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """The key that an endpoint and we share; its repr shows nothing of it."""

    key: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "WebhookSecret | None":
        """Read `whsec_` and the base64 of 24 to 64 bytes, or None when it is anything else."""
        if not text.startswith(SECRET_PREFIX):
            return None
        try:
            key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
        except (binascii.Error, ValueError):  # ValueError: not ASCII
            return None
        return cls(key) if MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES else None


def signature_headers(
    secrets: Sequence[WebhookSecret], message_id: str, timestamp: datetime, body: bytes
) -> dict[str, str]:
    """The three headers of one attempt, signed with every secret, so either end may rotate first.

    `message_id` stays the same over all attempts and holds no dot; `timestamp` is the time of this
    attempt, with a zone; `body` is UTF-8 and must be sent as it is.
    """
    if timestamp.tzinfo is None or "." in message_id:
        raise ValueError("a signature needs a timestamp with a zone and an id without dots")
    # The library overwrites the zone instead of converting it: another one would sign another hour.
    moment = timestamp.astimezone(UTC)
    signatures = [Webhook(secret.key).sign(message_id, moment, body.decode()) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
