"""Webhook secrets: tenants.toml and the database hold where they are, never what they are."""

from collections.abc import Mapping
from pathlib import Path

from worker.core.webhooks.signature import (
    MAX_KEY_BYTES,
    MIN_KEY_BYTES,
    SECRET_PREFIX,
    WebhookSecret,
)
from worker.errors import Transient

_FORMS = "a secret is given as env:NAME or file:PATH"


def secret_reference_error(ref: str) -> str | None:
    """What is wrong with a secret's reference, or None; a literal secret is not repeated."""
    if SECRET_PREFIX in ref:
        return f"this is the secret itself, and would be stored: {_FORMS}"
    kind, _, place = ref.partition(":")
    if kind not in {"env", "file"} or not place.strip():
        return _FORMS
    return None


def resolve_secrets(ref: str, environ: Mapping[str, str]) -> list[WebhookSecret]:
    """Read the secrets behind `env:NAME` or `file:PATH`, one or several separated by whitespace.

    All of them sign, so a rotation is: add the new one, tell the receiver, remove the old one.
    Raises Transient, which names the reference and never the value: setting it right repairs the
    delivery.
    """
    if error := secret_reference_error(ref):
        raise Transient(error)
    secrets = [WebhookSecret.parse(word) for word in _value(ref, environ).split()]
    valid = [secret for secret in secrets if secret is not None]
    if not valid or len(valid) < len(secrets):
        form = f"{SECRET_PREFIX} and the base64 of {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes"
        raise Transient(f"{ref} does not hold webhook secrets: each is {form}")
    return valid


def _value(ref: str, environ: Mapping[str, str]) -> str:
    kind, _, place = ref.partition(":")
    if kind == "env":
        return environ.get(place, "")
    try:
        return Path(place).read_text(encoding="utf-8")
    # Without the cause: a decoding error carries the bytes it could not decode.
    except (OSError, ValueError):
        raise Transient(f"{ref} cannot be read") from None
