"""Reads webhook secrets. tenants.toml and the database store only references to them."""

from collections.abc import Mapping
from pathlib import Path

from worker.core.webhooks.signature import (
    MAX_KEY_BYTES,
    MIN_KEY_BYTES,
    SECRET_PREFIX,
    WebhookSecret,
)
from worker.errors import Transient

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
    secrets = [WebhookSecret.parse(word) for word in _read_value(ref, environ).split()]
    valid = [secret for secret in secrets if secret is not None]
    if not valid or len(valid) < len(secrets):
        form = f"{SECRET_PREFIX} and the base64 of {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes"
        raise Transient(f"{ref} does not contain valid webhook secrets: each must be {form}")
    return valid


def _read_value(ref: str, environ: Mapping[str, str]) -> str:
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
