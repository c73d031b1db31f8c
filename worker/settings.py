"""The settings of the core, and the checks of its settings and those of all features.

Each error says what to write, and repeats nothing of the value.
"""

import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from valetkey.redis_urls import REDIS_SCHEMES, default_result_url, verify_by_default
from valetkey.wire.waiting import DEFAULT_MAX_MESSAGES, MIN_MAX_MESSAGES
from worker.features import settings_models

PREFIX = "VALETKEY_"
_HTTP_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:[0-9]+)?").fullmatch
_MAX_PORT = 65_535
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


RedisUrl = Annotated[SecretStr, _check_secret(_check_redis_url)]
"""The URL of a broker or result store; of a rediss:// URL, the server is verified."""
Endpoint = Annotated[str, AfterValidator(_check_endpoint)]


class SettingsModel(BaseSettings):
    """Settings of the core or of a feature: one environment variable each, with our prefix.

    The ValidationError has an error for each wrong one. The docstring of a field is its text in
    docs/reference/settings.md.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _check_not_empty(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.strip():
            raise ValueError("it is set, but empty: write a value, or unset it")
        return value


class Settings(SettingsModel):
    """The settings of the core. URLs are secret, because they may contain a password."""

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


def check_settings() -> None:
    """Check the settings of the core and all features. Raises the first ValidationError."""
    for model in settings_models():
        model()


def is_settings_error(error: ValidationError) -> bool:
    """Return whether a model of settings raised an error."""
    return error.title in {model.__name__ for model in settings_models()}


def describe_errors() -> str:
    """Return a message about all invalid settings, with the next step and without values."""
    lines = [f"  {line}" for line in setting_errors()]
    return "\n".join(("Nothing was done, because settings are wrong:", *lines, _NEXT_STEP))


def setting_errors() -> list[str]:
    """Return a line for each invalid setting: its variable and what is expected, not its value."""
    lines: list[str] = []
    for model in settings_models():
        try:
            model()
        except ValidationError as error:
            lines += [
                f"{PREFIX}{details['loc'][0]}".upper() + f": {_expectation(model, details)}"
                for details in error.errors(include_url=False, include_input=False)
                # A default that depends on another setting, which has an error itself.
                if details["type"] != "default_factory_not_called"
            ]
    return lines


def _expectation(model: type[BaseSettings], details: Any) -> str:
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    return f"expected {model.model_fields[details['loc'][0]].description}"


# Variables of the client, of `dev`, of a worker's supervisor and of docker-compose.yml.
_OTHER_NAMES = {
    *("TENANT", "REQUESTED_BY", "KEY", "KEY_FILE", "DATA_DIR", "FORWARD_TO"),
    *("READY_FD", "PROGRESS_FD", "SUPERVISOR_PID", "POSTGRES_PASSWORD"),
}
# Kubernetes sets these in each container if there is a Service of the name `valetkey`.
_OF_KUBERNETES = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_\w+)").fullmatch
_MIN_SIMILARITY = 0.7


class UnknownVariable(NamedTuple):
    """A variable with our prefix that nothing reads, and the known one that is most like it."""

    name: str
    suggestion: str | None


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[UnknownVariable]:
    """Return the variables with our prefix that nothing reads: they are probably misspelt."""
    known = sorted(
        {*(name.upper() for model in settings_models() for name in model.model_fields)}
        | _OTHER_NAMES
    )
    unknown = []
    for variable in sorted(environ):
        name = variable.upper().removeprefix(PREFIX)
        is_ours = name != variable.upper() and not name.startswith("TEST_")
        if is_ours and name not in known and not _OF_KUBERNETES(name):
            similar = get_close_matches(name, known, n=1, cutoff=_MIN_SIMILARITY)
            unknown.append(UnknownVariable(variable, PREFIX + similar[0] if similar else None))
    return unknown
