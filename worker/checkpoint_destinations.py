"""The places to which checkpoints of the audit log are published, as a setting names them."""

import re
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import urlsplit

FORMS = "folders, s3://PROFILE/PREFIX and https:// URLs, separated by commas"
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
    destinations = [_parse(part.strip()) for part in text.split(",")]
    if len({destination_id(each) for each in destinations}) < len(destinations):
        raise ValueError("it names a destination twice")
    return destinations


def _parse(text: str) -> Destination:
    if text.startswith("s3://"):
        profile, _, prefix = text.removeprefix("s3://").partition("/")
        if not _is_profile(profile) or not _is_prefix(prefix) or "//" in prefix:
            raise ValueError(
                "write s3://PROFILE/PREFIX with the name of a bucket profile, and a prefix of"
                " letters, digits and !_.*'()-/"
            )
        return BucketDestination(profile, f"{prefix.strip('/')}/" if prefix.strip("/") else "")
    if text.startswith(_WEBHOOK_SCHEMES):
        return WebhookDestination(_check_url(text))
    if not text or "://" in text or "\0" in text:
        raise ValueError(f"write {FORMS}")
    return FolderDestination(text)


def _check_url(url: str) -> str:
    try:
        host = urlsplit(url).hostname
        _ = urlsplit(url).port
    except ValueError:
        host = None
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("a webhook's URL is not valid: write https://, a host and a path")
    return url
