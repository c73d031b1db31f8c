"""Opens Redis or Valkey at redis://, rediss:// and sentinel:// URLs, for redis-py and for kombu."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

from valetkey.redis_urls import SentinelUrl, parse_sentinel_url

_SENTINEL_TIMEOUT = 2  # seconds: the next sentinel is asked if one is silent


class NotASentinel(redis.ConnectionError):
    """Something else than a sentinel answered. find_cause() knows the name of this class."""


class SentinelRefuses(redis.ConnectionError):
    """The user may not ask this sentinel. find_cause() knows the name of this class."""


class _AskOnce(Retry):
    """Asks a sentinel once: by default, each silent one would be asked four times."""

    def call_with_retry(self, *args: Any, **options: Any) -> Any:
        """Call; raises redis.ConnectionError and TimeoutError only."""
        with sentinel_errors():
            answer = super().call_with_retry(*args, **options)
            verify_sentinel_answer(answer)
            return answer


_ASK_ONCE = _AskOnce(NoBackoff(), 0)


@contextmanager
def sentinel_errors() -> Iterator[None]:
    """Raise redis.ConnectionError for an error of one sentinel, so that redis-py asks the next.

    redis-py itself ends the search if a permission is missing, or if no sentinel answers there.
    """
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError):
        raise
    except redis.exceptions.NoPermissionError as error:
        raise SentinelRefuses from error
    except (redis.RedisError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise NotASentinel from error


def verify_sentinel_answer(answer: Any) -> None:
    """Raise ValueError, TypeError or LookupError for a list of primaries that cannot be used."""
    for state in answer.values() if isinstance(answer, dict) else ():
        state["ip"].encode("idna")
        if state["num-other-sentinels"] < 0 or not 0 < state["port"] < 2**16:
            raise ValueError


class PrimaryConnection(SentinelManagedConnection):
    """A connection that is closed after an error, as those of Redis.from_url() are.

    redis-py would keep it after a time-out, and with it a primary whose machine is lost.
    """

    def read_response(self, *args: Any, disconnect_on_error: Any = True, **options: Any) -> Any:
        """Read a response; raises as redis-py does."""
        return super().read_response(*args, disconnect_on_error=disconnect_on_error, **options)


class PrimaryTlsConnection(PrimaryConnection, SentinelManagedSSLConnection):
    """The same with TLS."""


def open_redis(url: str, retries: int = 0, **options: Any) -> redis.Redis:
    """Return a client of the server at a URL, or of the one that is now the primary.

    A closed connection is reopened so many times; a silent one is not, as it has used enough time.
    With Sentinel, each new connection asks which server is the primary.
    """
    retry = Retry(NoBackoff(), retries, supported_errors=(redis.ConnectionError,))
    sentinel = parse_sentinel_url(url)
    if sentinel is None:
        return redis.Redis.from_url(url, retry=retry, **options)
    manager: Any = Sentinel(  # type: ignore[no-untyped-call] # redis-py's gap
        sentinel.hosts,
        sentinel_kwargs=sentinel_options(sentinel, _ASK_ONCE),
        **server_options(sentinel),
        **options,
    )
    connection = PrimaryTlsConnection if sentinel.tls else PrimaryConnection
    client: redis.Redis = manager.master_for(
        sentinel.master_name, retry=retry, connection_class=connection
    )
    return client


def server_options(sentinel: SentinelUrl) -> dict[str, Any]:
    """Return the options of redis-py's connections to the servers that sentinels watch."""
    return {"db": sentinel.database, **sentinel.login, **_tls_options(sentinel)}


def sentinel_options(sentinel: SentinelUrl, retry: Any) -> dict[str, Any]:
    """Return the options of redis-py's connections to the sentinels, with its policy of retries."""
    timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), _SENTINEL_TIMEOUT)
    return {"retry": retry, **timeouts, **sentinel.sentinel_login, **_tls_options(sentinel)}


def kombu_address(url: str) -> tuple[str, dict[str, Any]]:
    """Return the URL as kombu writes it, and the transport options that belong to it."""
    sentinel = parse_sentinel_url(url)
    if sentinel is None:
        return url, {}
    prefix = f"sentinel://{sentinel.user_info}@" if sentinel.user_info else "sentinel://"
    hosts = (f"[{host}]" if ":" in host else host for host, _ in sentinel.hosts)
    urls = (
        f"{prefix}{host}:{port}/{sentinel.database}?{urlencode(sentinel.tls)}"
        for host, (_, port) in zip(hosts, sentinel.hosts, strict=True)
    )
    options = sentinel_options(sentinel, _ASK_ONCE)
    return ";".join(urls), {"master_name": sentinel.master_name, "sentinel_kwargs": options}


def _tls_options(sentinel: SentinelUrl) -> dict[str, Any]:
    if not sentinel.tls:
        return {}
    check = sentinel.tls.get("ssl_check_hostname") != "false"
    # redis-py accepts no host check without a verified certificate.
    is_verified = sentinel.tls["ssl_cert_reqs"] != "none"
    return {"ssl": True, **sentinel.tls, "ssl_check_hostname": check and is_verified}
