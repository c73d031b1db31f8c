"""The service's settings, and the destinations of checkpoints that one of them names."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from valetkey.redis_urls import default_result_url
from worker import setting_checks
from worker.setting_names import PREFIX

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


_NEXT_STEP = (
    "Next: correct them (docs/operating.md lists all); `python -m worker doctor` checks them."
)


def _default_result_url(settings: dict[str, Any]) -> SecretStr:
    """Return the URL that clients read results from if they know only the broker's."""
    broker_url: str = settings["broker_url"].get_secret_value()
    return SecretStr(default_result_url(broker_url) or "redis://127.0.0.1:6379/1")


def _check_secret(check: Callable[[str], str]) -> AfterValidator:
    return AfterValidator(lambda secret: SecretStr(check(secret.get_secret_value())))


def _check_destinations(text: SecretStr) -> SecretStr:
    parse_destinations(text.get_secret_value())
    return text


RedisUrl = Annotated[SecretStr, _check_secret(setting_checks.check_redis_url)]
"""The URL of a broker or result store; of a rediss:// URL, the server is verified."""
DatabaseUrl = Annotated[SecretStr, _check_secret(setting_checks.check_database_url)]
Endpoint = Annotated[str, AfterValidator(setting_checks.check_endpoint)]
Destinations = Annotated[SecretStr, AfterValidator(_check_destinations)]
"""Where checkpoints are published; the URL of a webhook may contain a secret."""
Origin = Annotated[str, AfterValidator(setting_checks.check_origin)]
SecretReference = Annotated[str, AfterValidator(setting_checks.check_secret_reference)]


class Settings(BaseSettings):
    """The service's settings: one environment variable each, with the prefix VALETKEY_.

    URLs are secret, because they may contain a password. All settings are checked together: the
    ValidationError has an error for each wrong one.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    broker_url: RedisUrl = SecretStr("redis://127.0.0.1:6379/0")
    result_url: RedisUrl = Field(default_factory=_default_result_url)
    database_url: DatabaseUrl = SecretStr(setting_checks.DEFAULT_DATABASE_URL)
    s3_endpoint: Endpoint | None = None
    """The endpoint of bucket profiles that set none; if unset, AWS."""
    s3_internal_endpoint: Endpoint | None = None
    """The endpoint that the service itself calls for those profiles; if unset, the one in links."""
    sts_endpoint: Endpoint | None = None
    """The STS endpoint that assumes bucket profiles' roles; if unset, AWS in the bucket's region.
    """
    iam_endpoint: Endpoint | None = None
    """The IAM endpoint that ends the sessions of those roles; if unset, AWS."""
    development: bool = Field(default=False, description="true or false")
    """Allow webhooks to http:// URLs and to loopback addresses."""
    sweep_seconds: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="a number of seconds above 0, at most 3600",
    )
    """Seconds between two scheduled checks for deliveries and manifests that are due."""
    concurrency: int = Field(
        default=2, ge=1, le=1024, description="a whole number of processes from 1 to 1024"
    )
    audit_key_file: Path | None = Field(default=None, description="the path of a file")
    """The private key that signs checkpoints; if unset, none are signed."""
    audit_origin: Origin = "valetkey"
    """The name of that key, with which the origins of all checkpoints begin."""
    audit_checkpoints: Destinations | None = None
    """Where checkpoints are published, besides the database."""
    audit_webhook_secret: SecretReference | None = None
    """Where the secret is that signs checkpoints sent to webhooks."""
    audit_checkpoint_seconds: float = Field(
        default=3600.0,
        ge=1,
        le=2_592_000,
        allow_inf_nan=False,
        description="a number of seconds from 1 to 2592000 (30 days)",
    )
    """Seconds between two checkpoints of a tree that grows."""

    @field_validator("*", mode="before")
    @classmethod
    def _check_not_empty(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.strip():
            raise ValueError("it is set, but empty: write a value, or unset it")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where settings come from; a source has precedence over those after it."""
        return init_settings, env_settings


def describe_errors(error: ValidationError) -> str:
    """Return a message about all invalid settings, with the next step and without values."""
    lines = [f"  {line}" for line in setting_errors(error)]
    return "\n".join(("Nothing was done, because settings are wrong:", *lines, _NEXT_STEP))


def setting_errors(error: ValidationError) -> list[str]:
    """Return a line for each invalid setting: its variable and what is expected, not its value."""
    return [
        f"{PREFIX}{details['loc'][0]}".upper() + f": {_expectation(details)}"
        for details in error.errors(include_url=False, include_input=False)
        # A default that depends on another setting, which has an error itself.
        if details["type"] != "default_factory_not_called"
    ]


def _expectation(details: Any) -> str:
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    return f"expected {Settings.model_fields[details['loc'][0]].description}"
