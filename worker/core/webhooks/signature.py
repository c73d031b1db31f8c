"""Webhook signatures by Standard Webhooks 1.0.0.

Its library signs. This module also refuses the invalid input that the library accepts.
"""

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
    """The key that this service shares with an endpoint. Its repr does not contain the key."""

    key: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "WebhookSecret | None":
        """Parse `whsec_` and the base64 of 24 to 64 bytes. Returns None for any other text."""
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
    """Return the three signature headers of one attempt, as names and values.

    Every secret signs, so either side may rotate its secret first. `message_id` is the same for all
    attempts and contains no dot. `timestamp` is the time of this attempt, with a time zone. `body`
    is UTF-8 and must be sent unchanged. Raises ValueError for another id or timestamp.
    """
    if timestamp.tzinfo is None or "." in message_id:
        raise ValueError("a signature needs a timestamp with a time zone and an id without dots")
    # The library replaces the time zone instead of converting to UTC, which would shift the time.
    sent_at = timestamp.astimezone(UTC)
    signatures = [
        Webhook(secret.key).sign(message_id, sent_at, body.decode()) for secret in secrets
    ]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
