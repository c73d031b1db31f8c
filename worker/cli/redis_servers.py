"""Opens the broker and the result store for commands, and reports why they cannot be used."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import redis
from redis import exceptions

from valetkey.delivery.causes import CLOSED, describe_cause
from valetkey.delivery.redis_clients import open_redis as _open
from valetkey.redis_urls import redact_url
from worker.base.database_errors import Cause
from worker.cli.service_failures import ServiceUnusable, cause_of_kind, network_cause
from worker.settings import Settings

_NAMES = {"VALETKEY_BROKER_URL": "broker", "VALETKEY_RESULT_URL": "result store"}


def redis_unusable(error: BaseException, variable: str, url: str) -> ServiceUnusable:
    """Return the exception that ends a command, from one of redis-py or of the system."""
    name = f"the {_NAMES[variable]} at {redact_url(url)} ({variable})"
    return ServiceUnusable(name, redis_cause(error, variable))


def redis_cause(error: BaseException, variable: str) -> Cause:
    """Return why a call of Redis failed. Repeats nothing of the error's text."""
    cause = network_cause(error, variable)
    if cause is None and isinstance(error, exceptions.ConnectionError):
        return cause_of_kind(CLOSED, variable)
    hint = "the log of the server may say more"
    return cause or Cause(f"it fails with {describe_cause(error)}", hint)


_TIMEOUT = 3.0  # seconds


class ServerFacts(NamedTuple):
    """The eviction policy and memory of a server, None if the user may not read them.

    is_full is true for one that takes nothing more, because its memory has reached its limit.
    """

    eviction_policy: str | None
    is_full: bool = False
    memory: "MemoryUsage | None" = None


def read_server_facts(client: Any) -> ServerFacts:
    """Connect, log in and select the database.

    Raises as redis-py does, also for a Cluster, and for a replica: what is written to one that
    takes writes is lost at its next synchronization.
    """
    client.ping()
    try:
        info = [client.info(section) for section in ("replication", "memory", "cluster")]
    except redis.exceptions.NoPermissionError:  # a user of the workers may not ask for it
        return ServerFacts(None)
    if info[2].get("cluster_enabled"):
        raise redis.exceptions.ClusterError
    if info[0].get("role") == "slave":
        raise redis.exceptions.ReadOnlyError
    policy, memory = info[1].get("maxmemory_policy"), memory_usage(info[1])
    is_full = policy == "noeviction" and 0 < memory.limit <= memory.used
    return ServerFacts(policy, is_full, memory)


class MemoryUsage(NamedTuple):
    """The memory that a server uses, and its limit, in bytes. A limit of 0 is none."""

    used: int
    limit: int


def memory_usage(info: Mapping[str, Any]) -> MemoryUsage:
    """Return what counts against the limit, from the section `memory` of INFO."""
    used = info.get("used_memory", 0) - info.get("mem_not_counted_for_evict", 0)
    return MemoryUsage(used, info.get("maxmemory", 0))


def open_broker() -> AbstractContextManager[Any]:
    """Open the broker at VALETKEY_BROKER_URL, which must be Redis; the block has its client."""
    return open_redis("VALETKEY_BROKER_URL", Settings().broker_url.get_secret_value())


def open_results() -> AbstractContextManager[Any]:
    """Open the result store at VALETKEY_RESULT_URL; the block has its client."""
    return open_redis("VALETKEY_RESULT_URL", Settings().result_url.get_secret_value())


@contextmanager
def open_redis(variable: str, url: str) -> Iterator[Any]:
    """Yield a client of a Redis server. `variable` names the source of the URL in errors."""
    try:
        with _open(url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT) as client:
            yield client
    except (redis.RedisError, OSError) as error:
        raise redis_unusable(error, variable, url) from None
