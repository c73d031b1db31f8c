"""The settings of checkpoints, and the destinations that they name.

Each error says what to write, and repeats nothing of the value.
"""

import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from worker.settings import SettingsModel

DESTINATION_FORMS = "folders, s3://PROFILE/PREFIX and https:// URLs, separated by commas"
_is_profile = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}").fullmatch
_is_prefix = re.compile(r"[A-Za-z0-9!_.*'()/-]{0,512}").fullmatch
_WEBHOOK_SCHEMES = ("https://", "http://")
_ID_LENGTH = 32


@dataclass(frozen=True, slots=True)
class FolderDestination:
    """A folder, with a folder for each tenant."""

    path: str

    @property
    def label(self) -> str:
        """The name for people."""
        return self.path


@dataclass(frozen=True, slots=True)
class BucketDestination:
    """A prefix in the bucket of a bucket profile. The prefix is empty or ends with a slash."""

    profile: str
    prefix: str

    @property
    def label(self) -> str:
        """The name for people."""
        return f"s3://{self.profile}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class WebhookDestination:
    """A webhook. Its URL may contain a secret: only its host is shown."""

    url: str = field(repr=False)

    @property
    def label(self) -> str:
        """The name for people."""
        return f"webhook {urlsplit(self.url).hostname}"


Destination = FolderDestination | BucketDestination | WebhookDestination


def destination_id(destination: Destination) -> str:
    """Return the id that the database stores of a destination, which may contain a secret."""
    text = destination.url if isinstance(destination, WebhookDestination) else destination.label
    return sha256(text.encode()).hexdigest()[:_ID_LENGTH]


def parse_destinations(text: str) -> list[Destination]:
    """Parse folders, s3://PROFILE/PREFIX and webhook URLs, separated by commas.

    A comma in a URL is percent-encoded. Raises ValueError, which contains nothing of the text.
    """
    destinations = [_parse_destination(part.strip()) for part in text.split(",")]
    if len({destination_id(each) for each in destinations}) < len(destinations):
        raise ValueError("it names a destination twice")
    return destinations


def _parse_destination(text: str) -> Destination:
    if text.startswith("s3://"):
        profile, _, prefix = text.removeprefix("s3://").partition("/")
        if not _is_profile(profile) or not _is_prefix(prefix) or "//" in prefix:
            raise ValueError(
                "write s3://PROFILE/PREFIX with the name of a bucket profile, and a prefix of"
                " letters, digits and !_.*'()-/"
            )
        return BucketDestination(profile, f"{prefix.strip('/')}/" if prefix.strip("/") else "")
    if text.startswith(_WEBHOOK_SCHEMES):
        return WebhookDestination(_check_webhook_url(text))
    if not text or "://" in text or "\0" in text:
        raise ValueError(f"write {DESTINATION_FORMS}")
    return FolderDestination(text)


def _check_webhook_url(url: str) -> str:
    try:
        host = urlsplit(url).hostname
        _ = urlsplit(url).port
    except ValueError:
        host = None
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("a webhook's URL is not valid: write https://, a host and a path")
    return url


_MAX_ORIGIN = 200


def _check_origin(name: str) -> str:
    """Return a name that a key of checkpoints may have. Raises ValueError."""
    is_name = name.isprintable() and not any(map(str.isspace, name)) and "+" not in name
    if not is_name or name.endswith("/") or len(name) > _MAX_ORIGIN:
        raise ValueError(
            f"write a name of at most {_MAX_ORIGIN} characters without spaces, + and a final"
            " slash, like audit.example.com/valetkey"
        )
    return name


def _check_secret_reference(reference: str) -> str:
    """Return the reference of a secret. Raises ValueError, also for the secret itself."""
    scheme, _, target = reference.partition(":")
    if scheme not in {"env", "file"} or not target.strip():
        raise ValueError("write where the secret is, as env:NAME or file:PATH")
    return reference


def _check_destinations(text: SecretStr) -> SecretStr:
    parse_destinations(text.get_secret_value())
    return text


class ProofSettings(SettingsModel):
    """The settings of the feature proof."""

    audit_key_file: Path | None = Field(default=None, description="the path of a file")
    """The file of the private key that signs checkpoints of the audit log. `python -m worker audit
    key --new FILE` creates it. If unset: no checkpoints are signed."""
    audit_origin: Annotated[str, AfterValidator(_check_origin)] = "valetkey"
    """The name of that key, and of the log in its checkpoints: a name that no other service has,
    like `audit.example.com/valetkey`."""
    audit_checkpoints: Annotated[SecretStr, AfterValidator(_check_destinations)] | None = None
    """Where checkpoints are published: folders, `s3://PROFILE/PREFIX` with a bucket profile, and
    `https://` URLs of webhooks, separated by commas. If unset: only the database has them."""
    audit_webhook_secret: Annotated[str, AfterValidator(_check_secret_reference)] | None = None
    """Where the secrets are that sign those webhooks: `env:NAME` or `file:PATH`. Needed for
    webhooks."""
    audit_checkpoint_seconds: float = Field(
        default=3600.0,
        ge=1,
        le=2_592_000,
        allow_inf_nan=False,
        description="a number of seconds from 1 to 2592000 (30 days)",
    )
    """The seconds after which the upkeep worker signs and publishes a checkpoint of a tree that has
    grown, at most 2,592,000 (30 days)."""


def configured_destinations(settings: ProofSettings) -> list[Destination]:
    """Return the destinations of checkpoints."""
    setting = settings.audit_checkpoints
    return [] if setting is None else parse_destinations(setting.get_secret_value())


def checkpoint_prefixes() -> dict[str, tuple[str, ...]]:
    """Return the prefixes to which the settings publish checkpoints, by bucket profile."""
    prefixes: dict[str, tuple[str, ...]] = {}
    for destination in configured_destinations(ProofSettings()):
        if isinstance(destination, BucketDestination):
            known = prefixes.get(destination.profile, ())
            prefixes[destination.profile] = (*known, destination.prefix)
    return prefixes
