"""Opens the broker and the result store for commands, which end with a message if that fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from valetkey.config import redact_url
from valetkey.delivery.causes import describe_cause
from worker.settings import Settings

_TIMEOUT = 3.0  # seconds


@contextmanager
def open_broker() -> Iterator[Any]:
    """Yield a client of the broker at VALETKEY_BROKER_URL, which must be Redis."""
    with open_redis("VALETKEY_BROKER_URL", Settings().broker_url.get_secret_value()) as client:
        yield client


@contextmanager
def open_results() -> Iterator[Any]:
    """Yield a client of the result store at VALETKEY_RESULT_URL."""
    with open_redis("VALETKEY_RESULT_URL", Settings().result_url.get_secret_value()) as client:
        yield client


@contextmanager
def open_redis(variable: str, url: str) -> Iterator[Any]:
    """Yield a client of a Redis server. `variable` names the source of the URL in errors."""
    no_retry = Retry(NoBackoff(), 0)
    try:
        client = redis.Redis.from_url(
            url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, retry=no_retry
        )
    except ValueError:
        raise click.ClickException(f"{variable} is not the URL of a Redis server") from None
    try:
        with client:
            yield client
    except (redis.RedisError, OSError) as error:
        text = f"cannot use the Redis at {redact_url(url)}, the {variable}: {describe_cause(error)}"
        raise click.ClickException(text) from None
