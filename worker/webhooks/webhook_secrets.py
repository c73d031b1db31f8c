"""The secrets of webhooks and the signatures that they make, by Standard Webhooks 1.0.0.

tenants.toml and the database store only references to secrets. Behind a reference are secrets,
separated by whitespace. Each may be followed by `until` and a time, from which it no longer signs.
All secrets in force sign, so that a receiver can change its secret at any time in between.

The libraries sign. This module also refuses the invalid input that they accept.
"""

import base64
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import Webhook

from valetkey.units import format_utc
from worker.errors import Transient

Scheme = Literal["v1", "v1a"]
"""The identifier of a signature: HMAC-SHA256, or Ed25519, whose receivers hold no secret."""

_PREFIXES: dict[Scheme, str] = {"v1": "whsec_", "v1a": "whsk_"}
_PUBLIC_PREFIX = "whpk_"
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64
_SEED_BYTES = 32
_MAX_FILE_BYTES = 64 * 1024
_UNTIL = "until"
_NEVER = datetime.max.replace(tzinfo=UTC)
_is_date = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}").fullmatch
_SECRET_FORM = (
    f"each must be whsec_ and the base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes, or"
    " whsk_ and the base64 of an Ed25519 private key"
)
_UNTIL_FORM = (
    "after a secret, until is followed by a date in UTC or a time with a time zone, such as"
    " 2026-12-01 or 2026-12-01T08:00:00Z"
)


class MalformedSecret(Transient):
    """A reference can be read, and what is there are no secrets."""


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """A key that signs webhooks, and the time from which it no longer does.

    key is the one of the HMAC, or the seed of an Ed25519 key. The repr does not contain it.
    """

    key: bytes = field(repr=False)
    scheme: Scheme = "v1"
    until: datetime | None = None

    def dump(self) -> str:
        """Return the words of the secret, as `parse_secrets` reads them."""
        key = self.key if self.scheme == "v1" else self.key + self.public_bytes()
        secret = _PREFIXES[self.scheme] + base64.b64encode(key).decode()
        return secret if self.until is None else f"{secret} {_UNTIL} {format_utc(self.until)}"

    @property
    def public_key(self) -> str | None:
        """The public key that verifies signatures of v1a, or None."""
        if self.scheme == "v1":
            return None
        return _PUBLIC_PREFIX + base64.b64encode(self.public_bytes()).decode()

    def signs_at(self, now: datetime) -> bool:
        """Return true if the secret is in force."""
        return self.until is None or now < self.until

    def sign(self, message_id: str, sent_at: datetime, body: bytes) -> str:
        """Return the signature of a message that is sent at a time in UTC."""
        if self.scheme == "v1":
            signature: str = Webhook(self.key).sign(message_id, sent_at, body.decode())
            return signature
        content = f"{message_id}.{int(sent_at.timestamp())}.".encode() + body
        return f"v1a,{base64.b64encode(self._private_key().sign(content)).decode()}"

    def _private_key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.key)

    def public_bytes(self) -> bytes:
        """Return the bytes of the public key of an Ed25519 key. Raises ValueError for another."""
        return self._private_key().public_key().public_bytes_raw()


def _parse_secret(word: str) -> WebhookSecret:
    scheme = next((each for each, prefix in _PREFIXES.items() if word.startswith(prefix)), None)
    if scheme is not None:
        with suppress(ValueError):  # not ASCII, or not base64
            key = base64.b64decode(word.removeprefix(_PREFIXES[scheme]), validate=True)
            if scheme == "v1a":
                return _parse_private_key(key)
            if MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
                return WebhookSecret(key)
    raise ValueError(_SECRET_FORM)


def _parse_private_key(key: bytes) -> WebhookSecret:
    """Parse the bytes of an Ed25519 key: its seed, or its seed and its public key.

    The specification says only that they are in base64. Svix, whose format this is, writes both.
    """
    secret = WebhookSecret(key[:_SEED_BYTES], "v1a")
    if key[_SEED_BYTES:] not in {b"", secret.public_bytes()}:
        raise ValueError
    return secret


def parse_secrets(text: str) -> list[WebhookSecret]:
    """Parse one or more secrets, each with its end. Raises ValueError without any of the text."""
    secrets: list[WebhookSecret] = []
    words = iter(text.split())
    for word in words:
        if word == _UNTIL:
            if not secrets or secrets[-1].until is not None:
                raise ValueError(_UNTIL_FORM)
            secrets[-1] = replace(secrets[-1], until=_parse_end(next(words, "")))
        else:
            secrets.append(_parse_secret(word))
    if not secrets:
        raise ValueError(_SECRET_FORM)
    return secrets


def _parse_end(word: str) -> datetime:
    with suppress(ValueError, OverflowError):
        end = datetime.fromisoformat(f"{word}T00Z" if _is_date(word) else word)
        if end.tzinfo is not None:
            return end.astimezone(UTC)
    raise ValueError(_UNTIL_FORM)


def dump_secrets(secrets: Iterable[WebhookSecret]) -> str:
    """Return the text of a file with these secrets, one on each line."""
    return "".join(f"{secret.dump()}\n" for secret in secrets)


def rotate_secrets(
    secrets: Iterable[WebhookSecret], new: WebhookSecret, now: datetime, overlap: timedelta
) -> list[WebhookSecret]:
    """Return the new secret, and the old ones that still sign: until the overlap is over."""
    end = now + overlap
    old = (replace(secret, until=min(secret.until or end, end)) for secret in secrets)
    return [new, *(secret for secret in old if secret.signs_at(now))]


def longest_signing(secrets: Iterable[WebhookSecret]) -> WebhookSecret:
    """Return the secret that signs longest, the first of several."""
    return max(secrets, key=lambda secret: secret.until or _NEVER)


def signature_headers(
    secrets: Sequence[WebhookSecret], message_id: str, timestamp: datetime, body: bytes
) -> dict[str, str]:
    """Return the headers of one attempt, as names and values: JSON and its signatures.

    Every secret signs. `message_id` is the same for all attempts and contains no dot. `timestamp`
    is the time of this attempt, with a time zone. `body` is UTF-8 and must be sent unchanged.
    Raises ValueError for another id or timestamp.
    """
    if timestamp.tzinfo is None or "." in message_id:
        raise ValueError("a signature needs a timestamp with a time zone and an id without dots")
    # The library replaces the time zone instead of converting to UTC, which would shift the time.
    sent_at = timestamp.astimezone(UTC)
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": " ".join(secret.sign(message_id, sent_at, body) for secret in secrets),
    }


_REFERENCE_FORMS = "a secret is given as env:NAME or file:PATH"


def secret_reference_error(ref: str) -> str | None:
    """Return what is wrong with a secret's reference, or None; never repeats a literal secret."""
    if any(prefix in ref for prefix in _PREFIXES.values()):
        return f"this is the secret itself and would be stored: {_REFERENCE_FORMS}"
    scheme, _, target = ref.partition(":")
    if scheme not in {"env", "file"} or not target.strip():
        return _REFERENCE_FORMS
    return None


def resolve_secrets(ref: str, environ: Mapping[str, str], now: datetime) -> list[WebhookSecret]:
    """Read the secrets behind a reference that are in force. Raises Transient if none is."""
    secrets = read_secrets(ref, environ)
    in_force = [secret for secret in secrets if secret.signs_at(now)]
    if not in_force:
        raise Transient(f"{ref} has no secret that signs: the last one ended")
    return in_force


def read_secrets(ref: str, environ: Mapping[str, str]) -> list[WebhookSecret]:
    """Read the secrets behind `env:NAME` or `file:PATH`, whether or not they are in force.

    Raises Transient, which names the reference but never the value. Once the reference is fixed,
    deliveries succeed. Raises MalformedSecret if the reference can be read.
    """
    if error := secret_reference_error(ref):
        raise Transient(error)
    try:
        return parse_secrets(_read_text(ref, environ))
    except ValueError as invalid:
        raise MalformedSecret(f"{ref} does not contain valid webhook secrets: {invalid}") from None


def _read_text(ref: str, environ: Mapping[str, str]) -> str:
    scheme, _, target = ref.partition(":")
    if scheme == "env":
        if target not in environ:
            raise Transient(f"{ref} is not set in the environment of this process")
        return environ[target]
    try:
        return _read_file(target).decode()
    # Without the cause: a UnicodeDecodeError contains the bytes that could not be decoded.
    except (OSError, ValueError) as error:
        failure = MalformedSecret if isinstance(error, UnicodeDecodeError) else Transient
        raise failure(
            f"{ref} cannot be read: a regular file must exist, be readable by the worker and "
            "contain UTF-8 text"
        ) from None


def _read_file(path: str) -> bytes:
    """Return the start of a file. Raises OSError if it is none: a pipe would be waited for."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError
        return file.read(_MAX_FILE_BYTES)
