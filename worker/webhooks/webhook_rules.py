"""The rules of webhooks: signatures by Standard Webhooks 1.0.0, secrets, retries, circuit breakers.

The library of Standard Webhooks signs. This module also refuses the invalid input that it accepts.
tenants.toml and the database store only references to secrets.

The schedule follows the example of Standard Webhooks. The first retries come quickly, for an
endpoint that restarts. Later ones are slower, so an endpoint can be down for more than two days
without losing a webhook.

A failure is an attempt without a response, or with a response of 500 or higher. While a circuit is
open, no delivery to its endpoint is attempted, and no attempt is used up. After the pause, one
delivery probes the endpoint: any other response closes the circuit, and another failure opens it
for a longer pause.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from standardwebhooks import Webhook

from worker.errors import Transient

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix that all secrets share
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64


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
        return cls(key) if MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES else None


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


_REFERENCE_FORMS = "a secret is given as env:NAME or file:PATH"


def secret_reference_error(ref: str) -> str | None:
    """Return what is wrong with a secret's reference, or None; never repeats a literal secret."""
    if SECRET_PREFIX in ref:
        return f"this is the secret itself and would be stored: {_REFERENCE_FORMS}"
    scheme, _, target = ref.partition(":")
    if scheme not in {"env", "file"} or not target.strip():
        return _REFERENCE_FORMS
    return None


def resolve_secrets(ref: str, environ: Mapping[str, str]) -> list[WebhookSecret]:
    """Read the secrets behind `env:NAME` or `file:PATH`: one or more, separated by whitespace.

    Every secret signs. To rotate: add the new secret, give it to the receiver, remove the old one.
    Raises Transient, which names the reference but never the value. Once the reference is fixed,
    deliveries succeed.
    """
    if error := secret_reference_error(ref):
        raise Transient(error)
    secrets = [WebhookSecret.parse(word) for word in _read_secret(ref, environ).split()]
    valid = [secret for secret in secrets if secret is not None]
    if not valid or len(valid) < len(secrets):
        form = f"{SECRET_PREFIX} and the base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes"
        raise Transient(f"{ref} does not contain valid webhook secrets: each must be {form}")
    return valid


def _read_secret(ref: str, environ: Mapping[str, str]) -> str:
    scheme, _, target = ref.partition(":")
    if scheme == "env":
        if target not in environ:
            raise Transient(f"{ref} is not set in the environment of this process")
        return environ[target]
    try:
        return Path(target).read_text(encoding="utf-8")
    # Without the cause: a UnicodeDecodeError contains the bytes that could not be decoded.
    except (OSError, ValueError):
        raise Transient(
            f"{ref} cannot be read: the file must exist, be readable by the worker and contain "
            "UTF-8 text"
        ) from None


RETRY_SCHEDULE = (
    timedelta(0),
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=20),
    timedelta(hours=24),
)
MAX_RETRY_DELAY = timedelta(hours=24)
RETRY_JITTER = 0.2


def retry_delay(
    attempts: int, jitter: float, retry_after: timedelta | None = None
) -> timedelta | None:
    """Return the delay before the next attempt, or None if no attempts are left.

    It is the longer of the schedule's delay and the endpoint's Retry-After, 24 hours at most.
    `attempts` is the number of attempts already made, from 0. `jitter`, 0 <= jitter < 1, moves the
    schedule's delay by up to 20 % in either direction, so that deliveries that failed together are
    not retried together.
    """
    if attempts >= len(RETRY_SCHEDULE):
        return None
    delay = RETRY_SCHEDULE[attempts] * (1 - RETRY_JITTER + 2 * RETRY_JITTER * jitter)
    return min(max(delay, retry_after or timedelta(0)), MAX_RETRY_DELAY)


CIRCUIT_THRESHOLD = 5
FIRST_CIRCUIT_PAUSE = timedelta(seconds=5)
MAX_CIRCUIT_PAUSE = timedelta(minutes=5)


class Circuit(NamedTuple):
    """Consecutive failures of an endpoint; its circuit is open until a time, if it was opened."""

    failures: int
    open_until: datetime | None

    def is_open(self, now: datetime) -> bool:
        """Return true if the endpoint must not be called yet."""
        return self.open_until is not None and self.open_until > now

    def needs_probe(self, now: datetime) -> bool:
        """Return true if a single delivery may be attempted."""
        return self.open_until is not None and self.open_until <= now

    def after_failures(self, count: int, now: datetime, *, is_probe: bool) -> "Circuit":
        """Return the circuit after failures of attempts that ran at the same time.

        Only a failed probe lengthens the pause. Attempts that began before the circuit was opened
        tell nothing new.
        """
        if is_probe:
            failures = self.failures + 1
        elif self.open_until is not None:
            return self
        else:
            failures = min(self.failures + count, CIRCUIT_THRESHOLD)
        duration = circuit_pause(failures)
        return Circuit(failures, None if duration is None else now + duration)


CLOSED_CIRCUIT = Circuit(0, None)


def circuit_pause(failures: int) -> timedelta | None:
    """Return the pause after this many consecutive failures, or None if there is none yet."""
    if failures < CIRCUIT_THRESHOLD:
        return None
    doublings = min(failures - CIRCUIT_THRESHOLD, 10)  # far over MAX_PAUSE
    return min(FIRST_CIRCUIT_PAUSE * (1 << doublings), MAX_CIRCUIT_PAUSE)
