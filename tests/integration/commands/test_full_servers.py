"""`doctor` names a server that takes nothing more because its memory is full."""

from collections.abc import Iterator

import pytest
import redis

from worker.commands.health.broker_checks import broker_checks
from worker.settings import Settings

FULL = "its memory is full (maxmemory), so it takes no messages"
SERVERS = ("broker", "results")


@pytest.fixture
def server(broker: str, monkeypatch: pytest.MonkeyPatch) -> Iterator["redis.Redis"]:
    """The server of the broker and the result store, without a limit afterwards."""
    monkeypatch.setenv("VALETKEY_BROKER_URL", broker)
    monkeypatch.delenv("VALETKEY_RESULT_URL", raising=False)
    with redis.Redis.from_url(broker) as server:
        yield server
        server.config_set("maxmemory", 0)
        server.config_set("maxmemory-policy", "noeviction")


def failed_checks() -> dict[str, str]:
    """Return why each failed check of the servers failed."""
    failures = (each for each in broker_checks(Settings()) if each.state == "fail")
    return {
        each.check: each.message.rpartition(": ")[2] for each in failures if each.check in SERVERS
    }


def test_a_server_whose_memory_is_full_is_a_failure(server: "redis.Redis") -> None:
    server.config_set("maxmemory", 1)
    assert failed_checks() == {"broker": FULL, "results": FULL}


@pytest.mark.parametrize(
    ("policy", "limit"), [("noeviction", 0), ("noeviction", 2**40), ("allkeys-lru", 1)]
)
def test_a_server_that_takes_more_is_no_failure(
    server: "redis.Redis", policy: str, limit: int
) -> None:
    server.config_set("maxmemory-policy", policy)
    server.config_set("maxmemory", limit)
    assert failed_checks() == {}


def test_the_queues_of_a_full_server_are_still_read(server: "redis.Redis") -> None:
    server.config_set("maxmemory", 1)
    assert {"queues", "workers", "messages"} <= {each.check for each in broker_checks(Settings())}
