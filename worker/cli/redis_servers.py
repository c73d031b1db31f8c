"""Opens the broker and the result store for commands, and tells why they cannot be used."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from valetkey.config import redact_url
from valetkey.delivery.causes import describe_cause, exception_chain
from worker.cli.service_failures import Cause, ServiceUnusable, network_cause, silent
from worker.settings import Settings

_NAMES = {"VALETKEY_BROKER_URL": "broker", "VALETKEY_RESULT_URL": "result store"}


def redis_unusable(error: BaseException, variable: str, url: str) -> ServiceUnusable:
    """Return the exception that ends a command, from one of redis-py or of the system."""
    name = f"the {_NAMES[variable]} at {redact_url(url)} ({variable})"
    return ServiceUnusable(name, redis_cause(error, variable))


def redis_cause(error: BaseException, variable: str) -> Cause:
    """Return why a call of Redis failed. Repeats nothing of the error's text."""
    errors = (each for each in exception_chain(error) if isinstance(each, redis.RedisError))
    found = (_server_cause(each, variable) for each in errors)
    cause = next(filter(None, found), None) or network_cause(error, variable)
    if cause is not None:
        return cause
    if isinstance(error, exceptions.TimeoutError):
        return silent(variable)
    if isinstance(error, exceptions.ConnectionError):
        hint = f"is it Redis or Valkey, at the right port, and does {variable} need rediss://?"
        return Cause("the server closes the connection", hint, is_away=True)
    return Cause(f"it fails with {describe_cause(error)}", "the log of the server may say more")


def _server_cause(error: redis.RedisError, variable: str) -> Cause | None:  # noqa: PLR0911 - one return a cause
    text = str(error)
    match error:
        case exceptions.AuthenticationError():
            return _authentication_cause(text, variable)
        case exceptions.NoPermissionError():
            hint = "give the user the permissions of `worker` in examples/production/users.acl"
            return Cause("its user may not run this command, or not on these keys", hint)
        case exceptions.ReadOnlyError():
            hint = f"write the address of the primary server into {variable}"
            return Cause("it is a replica, which is read-only", hint)
        case exceptions.OutOfMemoryError():
            hint = "raise maxmemory of the server, or remove what fills it"
            return Cause("its memory is full (maxmemory), so it takes no messages", hint)
        case exceptions.BusyLoadingError() | exceptions.MasterDownError():
            return Cause(
                "it still loads its data, or has no primary server",
                "wait a moment, and try again",
                is_away=True,
            )
        case exceptions.ConnectionError() if "max number of clients" in text:
            hint = "raise maxclients of the server, or close connections"
            return Cause("it has no free connection (maxclients)", hint, is_away=True)
        case exceptions.InvalidResponse():
            hint = f"correct host and port in {variable}"
            return Cause("what answers is not Redis or Valkey", hint)
        case exceptions.ResponseError() if "DB index" in text or "SELECT is not allowed" in text:
            hint = f"write a lower number at the end of {variable}; a server has 16 by default"
            return Cause("the server has no database of this number", hint)
    return None


def _authentication_cause(text: str, variable: str) -> Cause:
    if "NOAUTH" in text or "Authentication required" in text or text.startswith("HELLO must"):
        hint = f"write the user and password into {variable}: redis://USER:PASSWORD@HOST:6379/0"
        return Cause("the server asks for a password, and the URL has none", hint)
    if "without any password configured" in text:
        hint = f"remove the password from {variable}, or name its user"
        return Cause("the server's default user has no password", hint)
    hint = f"correct the user and password in {variable}"
    return Cause("the server refuses the user or the password", hint)


_TIMEOUT = 3.0  # seconds


class ServerFacts(NamedTuple):
    """The eviction policy of a server, None if the user may not read it.

    is_full is true for one that takes nothing more, because its memory has reached its limit.
    """

    eviction_policy: str | None
    is_full: bool = False


def read_server_facts(client: Any) -> ServerFacts:
    """Connect, log in and select the database. Raises as redis-py does, also for a replica."""
    client.ping()
    try:
        info = client.info("replication"), client.info("memory")
    except redis.exceptions.NoPermissionError:  # a user of the workers may not ask for it
        return ServerFacts(None)
    if info[0].get("role") == "slave" and info[0].get("slave_read_only", 1):
        raise redis.exceptions.ReadOnlyError
    policy, limit = info[1].get("maxmemory_policy"), info[1].get("maxmemory", 0)
    used = info[1].get("used_memory", 0) - info[1].get("mem_not_counted_for_evict", 0)
    return ServerFacts(policy, is_full=policy == "noeviction" and 0 < limit <= used)


def open_broker() -> AbstractContextManager[Any]:
    """Open the broker at VALETKEY_BROKER_URL, which must be Redis; the block has its client."""
    return open_redis("VALETKEY_BROKER_URL", Settings().broker_url.get_secret_value())


def open_results() -> AbstractContextManager[Any]:
    """Open the result store at VALETKEY_RESULT_URL; the block has its client."""
    return open_redis("VALETKEY_RESULT_URL", Settings().result_url.get_secret_value())


@contextmanager
def open_redis(variable: str, url: str) -> Iterator[Any]:
    """Yield a client of a Redis server. `variable` names the source of the URL in errors."""
    no_retry = Retry(NoBackoff(), 0)
    try:
        with redis.Redis.from_url(
            url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, retry=no_retry
        ) as client:
            yield client
    except (redis.RedisError, OSError) as error:
        raise redis_unusable(error, variable, url) from None
