"""Checks of single settings. Each error says what to write, and repeats nothing of the value."""

import re
from urllib.parse import urlsplit

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from valetkey.redis_urls import verify_by_default

DEFAULT_DATABASE_URL = "sqlite:///.valetkey/valetkey.db"
_REDIS_SCHEMES = {"redis", "rediss"}
_HTTP_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:[0-9]+)?").fullmatch
_MAX_PORT = 65_535
_MAX_ORIGIN = 200
_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}
_DATABASE_FORMS = (
    "sqlite:///PATH (sqlite:////PATH if it is absolute) or"
    " postgresql+psycopg://USER:PASSWORD@HOST:5432/DATABASE"
)
_ENCODING = "percent-encode special characters in its user and password"


def check_redis_url(url: str) -> str:
    """Return a redis:// or rediss:// URL as all libraries read it. Raises ValueError."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _REDIS_SCHEMES:
        raise ValueError("it must be Redis or Valkey: write a redis:// or rediss:// URL")
    url = f"{scheme.lower()}://{rest}"  # libraries compare it as it is written
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


def check_endpoint(url: str) -> str:
    """Return the URL of an S3 or STS endpoint. Raises ValueError."""
    try:
        _check_port(urlsplit(url).port if _HTTP_ENDPOINT(url) else 0)
    except ValueError:
        raise ValueError(
            "write http:// or https://, a host and an optional port, without user, path, query or"
            " a final slash, like https://s3.example.com"
        ) from None
    return url


def check_origin(name: str) -> str:
    """Return a name that a key of checkpoints may have. Raises ValueError."""
    is_name = name.isprintable() and not any(map(str.isspace, name)) and "+" not in name
    if not is_name or name.endswith("/") or len(name) > _MAX_ORIGIN:
        raise ValueError(
            f"write a name of at most {_MAX_ORIGIN} characters without spaces, + and a final"
            " slash, like audit.example.com/valetkey"
        )
    return name


def check_secret_reference(reference: str) -> str:
    """Return the reference of a secret. Raises ValueError, also for the secret itself."""
    scheme, _, target = reference.partition(":")
    if scheme not in {"env", "file"} or not target.strip():
        raise ValueError("write where the secret is, as env:NAME or file:PATH")
    return reference


def _check_port(port: int | None) -> None:
    if port is not None and not 1 <= port <= _MAX_PORT:
        raise ValueError
