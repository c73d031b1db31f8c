"""The service's settings, the checks of their values, and the destinations of checkpoints.

Each error says what to write, and repeats nothing of the value.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from valetkey.redis_urls import REDIS_SCHEMES, default_result_url, verify_by_default
from valetkey.wire.waiting import DEFAULT_MAX_MESSAGES, MIN_MAX_MESSAGES

PREFIX = "VALETKEY_"
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


_HTTP_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:[0-9]+)?").fullmatch
_MAX_PORT = 65_535
_MAX_ORIGIN = 200
_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}
_DATABASE_FORMS = (
    "sqlite:///PATH (sqlite:////PATH if it is absolute) or"
    " postgresql+psycopg://USER:PASSWORD@HOST:5432/DATABASE, or of several hosts"
    " postgresql+psycopg://USER:PASSWORD@/DATABASE?host=HOST:5432&host=HOST:5432"
)
_ENCODING = "percent-encode special characters in its user and password"


def _check_redis_url(url: str) -> str:
    """Return the URL of Redis or of sentinels as all libraries read it. Raises ValueError."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in REDIS_SCHEMES:
        raise ValueError(
            "it must be Redis or Valkey: write a redis://, rediss:// or sentinel:// URL"
        )
    url = f"{scheme.lower()}://{rest}"  # libraries compare it as it is written
    if scheme.lower() == "sentinel":
        return verify_by_default(url)
    if ";" in url:  # kombu would read several URLs
        raise ValueError("it names one server; percent-encode ; as %3B")
    try:
        parts = urlsplit(url)
        _check_port(parts.port)
    except ValueError:  # do not chain it: its text may contain a part of the password
        raise ValueError(
            f"its host or port is not valid: the port is a number from 1 to"
            f" {_MAX_PORT:,}; {_ENCODING}"
        ) from None
    if not parts.hostname:
        raise ValueError("it names no host: write redis://HOST:6379/0")
    database = parts.path.strip("/")
    if database and not (database.isascii() and database.isdecimal()):
        raise ValueError("its path is not a database number: write redis://HOST:6379/0")
    if parts.fragment:
        raise ValueError(f"it contains a #: {_ENCODING}")
    return verify_by_default(url)


def check_database_url(text: str) -> str:
    """Return the URL of a SQLite or PostgreSQL database, with its driver. Raises ValueError."""
    try:
        url = make_url(text)
        _check_port(url.port)
        if url.get_backend_name() == "postgresql" and "host" in url.query:
            url.get_dialect()().create_connect_args(url)  # as many ports as hosts
    except (ArgumentError, ValueError):  # do not chain it: its text may contain the password
        raise ValueError(
            f"this is not the URL of a database: write {_DATABASE_FORMS}; {_ENCODING}"
        ) from None
    driver = url.drivername.lower()
    driver = _DRIVERS.get(driver, driver)
    if driver == "sqlite":
        return _check_sqlite(text)
    if driver != "postgresql+psycopg":
        raise ValueError(f"this database or driver is not supported: write {_DATABASE_FORMS}")
    if "@" in (url.host or "") or "/" in (url.host or ""):
        raise ValueError(f"its host is not valid: {_ENCODING}")
    return url.set(drivername=driver).render_as_string(hide_password=False)


def _check_sqlite(text: str) -> str:
    url = make_url(text)
    if url.host or url.username or url.port:
        raise ValueError(
            "a SQLite URL has three slashes before a relative path and four before an absolute one:"
            " write sqlite:///PATH"
        )
    if not url.database or ":memory:" in url.database or url.query.get("mode") == "memory":
        raise ValueError("a database in memory is lost at once: write sqlite:///PATH")
    return text


def _check_endpoint(url: str) -> str:
    """Return the URL of an S3 or STS endpoint. Raises ValueError."""
    try:
        _check_port(urlsplit(url).port if _HTTP_ENDPOINT(url) else 0)
    except ValueError:
        raise ValueError(
            "write http:// or https://, a host and an optional port, without user, path, query or"
            " a final slash, like https://s3.example.com"
        ) from None
    return url


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


def _check_port(port: int | None) -> None:
    if port is not None and not 1 <= port <= _MAX_PORT:
        raise ValueError


_NEXT_STEP = (
    "Next: correct them (docs/reference/settings.md lists all);"
    " `python -m worker doctor` checks them."
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


RedisUrl = Annotated[SecretStr, _check_secret(_check_redis_url)]
"""The URL of a broker or result store; of a rediss:// URL, the server is verified."""
Endpoint = Annotated[str, AfterValidator(_check_endpoint)]


class Settings(BaseSettings):
    """The service's settings: one environment variable each, with the prefix VALETKEY_.

    URLs are secret, because they may contain a password. All settings are checked together: the
    ValidationError has an error for each wrong one. The docstring of a field is its text in
    docs/reference/settings.md.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    broker_url: RedisUrl = SecretStr("redis://127.0.0.1:6379/0")
    """The broker, from which workers take requests: `redis://`, `rediss://` (TLS) or
    `sentinel://`."""
    result_url: RedisUrl = Field(default_factory=_default_result_url)
    """The result store, which keeps a result for 15 minutes at most. If unset: database 1 of the
    broker's server."""
    database_url: Annotated[SecretStr, _check_secret(check_database_url)] = SecretStr(
        "sqlite:///.valetkey/valetkey.db"
    )
    """The database: `sqlite:///PATH`, or a URL like
    `postgresql://valetkey@db.example.com/valetkey`, also with several hosts. Percent-encode special
    characters in its user and password."""
    s3_endpoint: Endpoint | None = None
    """The S3 endpoint of bucket profiles that set none, as the user of a link reaches it: `http://`
    or `https://`, a host and an optional port. If unset: AWS."""
    s3_internal_endpoint: Endpoint | None = None
    """The S3 endpoint that the service itself calls for those profiles, if it cannot reach the one
    in links. If unset: the one in links."""
    sts_endpoint: Endpoint | None = None
    """The STS endpoint that assumes the `role_arn` of a bucket profile. If unset: AWS in the
    bucket's region."""
    iam_endpoint: Endpoint | None = None
    """The IAM endpoint at which `revoke --end-sessions` changes the policy of such a role. If
    unset: AWS."""
    development: bool = Field(default=False, description="true or false")
    """Allows webhooks to `http://` URLs and to this machine. Never set it in production."""
    sweep_seconds: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="a number of seconds above 0, at most 3600",
    )
    """The seconds between two searches of the upkeep worker for due webhooks, due manifests and
    expired grants, at most 3,600."""
    concurrency: int = Field(
        default=2, ge=1, le=1024, description="a whole number of processes from 1 to 1024"
    )
    """The child processes of one worker that issues grants, from 1 to 1,024. An upkeep worker has
    one process."""
    lane_messages: int = Field(
        default=DEFAULT_MAX_MESSAGES,
        ge=MIN_MAX_MESSAGES,
        le=10_000_000,
        description=f"a whole number of messages from {MIN_MAX_MESSAGES}, which one batch needs, to"
        " 10000000",
    )
    """The messages of a tenant that may wait for its turn, from 64 to 10,000,000. `max_waiting` in
    tenants.toml sets it for one tenant."""
    lane_age_seconds: float = Field(
        default=600.0,
        ge=1,
        le=86_400,
        allow_inf_nan=False,
        description="a number of seconds from 1 to 86400",
    )
    """The seconds that the oldest of them may wait until clients of the tenant are refused as busy,
    from 1 to 86,400. `max_waiting_age` sets it for one tenant."""
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

    @field_validator("*", mode="before")
    @classmethod
    def _check_not_empty(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.strip():
            raise ValueError("it is set, but empty: write a value, or unset it")
        return value


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


# Variables of the client, of `dev`, of a worker's supervisor and of docker-compose.yml.
_OTHER_NAMES = {
    *("TENANT", "REQUESTED_BY", "KEY", "KEY_FILE", "DATA_DIR", "FORWARD_TO"),
    *("READY_FD", "PROGRESS_FD", "SUPERVISOR_PID", "POSTGRES_PASSWORD"),
}
# Kubernetes sets these in each container if there is a Service of the name `valetkey`.
_OF_KUBERNETES = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_\w+)").fullmatch
_MIN_SIMILARITY = 0.7


def configured_destinations(settings: Settings) -> list[Destination]:
    """Return the destinations of checkpoints."""
    setting = settings.audit_checkpoints
    return [] if setting is None else parse_destinations(setting.get_secret_value())


def checkpoint_prefixes(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return the prefixes to which checkpoints are published, by bucket profile."""
    prefixes: dict[str, tuple[str, ...]] = {}
    for destination in configured_destinations(settings):
        if isinstance(destination, BucketDestination):
            known = prefixes.get(destination.profile, ())
            prefixes[destination.profile] = (*known, destination.prefix)
    return prefixes


class UnknownVariable(NamedTuple):
    """A variable with our prefix that nothing reads, and the known one that is most like it."""

    name: str
    suggestion: str | None


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[UnknownVariable]:
    """Return the variables with our prefix that nothing reads: they are probably misspelt."""
    known = sorted({*map(str.upper, Settings.model_fields), *_OTHER_NAMES})
    unknown = []
    for variable in sorted(environ):
        name = variable.upper().removeprefix(PREFIX)
        is_ours = name != variable.upper() and not name.startswith("TEST_")
        if is_ours and name not in known and not _OF_KUBERNETES(name):
            similar = get_close_matches(name, known, n=1, cutoff=_MIN_SIMILARITY)
            unknown.append(UnknownVariable(variable, PREFIX + similar[0] if similar else None))
    return unknown
