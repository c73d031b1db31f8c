"""A client reads what waits before it sends: into the queue, its own lane, or later."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.support.builders.messages import grant_message
from tests.support.fakes.fake_service import running_fake_service
from valetkey import AsyncClient, Busy, Client
from valetkey.config import load_config
from valetkey.delivery.transport import Publisher, client_servers
from valetkey.errors import ServiceUnavailable
from valetkey.wire.waiting import (
    LANE_STATES,
    MIN_MAX_MESSAGES,
    QUEUE_LIMIT,
    SERVICE_FIELD,
    dump_lane_state,
)

LANE = "valetkey.waiting:acme"


@pytest.fixture
def server(broker: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(broker) as server:
        yield server
        server.flushall()


@pytest.fixture
def publisher(broker: str) -> Iterator[Publisher]:
    publisher = Publisher(client_servers(load_config({"broker_url": broker, "tenant": "acme"})))
    yield publisher
    publisher.close()


def set_states(server: redis.Redis, max_messages: int = 1_000, **busy: int) -> None:
    """Write what a fair queue would write."""
    server.hset(LANE_STATES, "acme", dump_lane_state(max_messages, busy))
    server.hset(LANE_STATES, SERVICE_FIELD, dump_lane_state(1_000, {}))


def fill(server: redis.Redis, key: str, count: int) -> None:
    server.lpush(key, *["{}"] * count)


def send(publisher: Publisher, **options: Any) -> None:
    publisher.send("1", grant_message(), "valetkey", **options)


def test_a_client_writes_into_its_lane_behind_a_long_queue(
    server: redis.Redis, publisher: Publisher
) -> None:
    set_states(server)
    fill(server, "valetkey", QUEUE_LIMIT + 1)
    send(publisher)
    assert (server.llen("valetkey"), server.llen(LANE)) == (QUEUE_LIMIT + 1, 1)
    assert publisher.is_waiting("1")
    publisher.remove(publisher.forget(["1"]))
    assert server.llen(LANE) == 0


def test_a_client_writes_into_a_short_queue(server: redis.Redis, publisher: Publisher) -> None:
    set_states(server)
    fill(server, "valetkey", QUEUE_LIMIT)
    send(publisher)
    assert (server.llen("valetkey"), server.llen(LANE)) == (QUEUE_LIMIT + 1, 0)


def test_without_a_process_that_serves_lanes_a_client_writes_into_the_queue(
    server: redis.Redis, publisher: Publisher
) -> None:
    fill(server, "valetkey", 1_000)
    send(publisher)
    assert server.llen("valetkey") == 1_001


def test_a_lane_that_is_full_takes_nothing(server: redis.Redis, publisher: Publisher) -> None:
    set_states(server, MIN_MAX_MESSAGES)
    fill(server, LANE, MIN_MAX_MESSAGES)
    with pytest.raises(Busy, match="64 messages of this tenant"):
        send(publisher)
    assert (server.llen("valetkey"), server.llen(LANE)) == (0, MIN_MAX_MESSAGES)


def test_what_a_client_sends_itself_counts_at_once(
    server: redis.Redis, publisher: Publisher
) -> None:
    set_states(server)
    for number in range(QUEUE_LIMIT + 5):
        publisher.send(str(number), grant_message(), "valetkey")
    assert server.llen("valetkey") >= QUEUE_LIMIT + 1
    assert server.llen(LANE) == QUEUE_LIMIT + 5 - server.llen("valetkey")


@pytest.mark.parametrize("key", [LANE_STATES, LANE, "valetkey.waiting:acme.bulk"])
def test_a_key_of_another_type_keeps_no_client_from_sending(
    server: redis.Redis, publisher: Publisher, key: str
) -> None:
    set_states(server)
    server.delete(key)
    server.set(key, "junk")
    send(publisher)
    assert server.llen("valetkey") == 1


def test_a_user_who_may_not_read_sends_as_before_and_asks_once(
    server: redis.Redis, broker: str
) -> None:
    rules = ["on", ">secret", "resetkeys", "~valetkey", "-@all", "+lpush", "+ping", "+select"]
    server.acl_setuser("writer", enabled=True, reset=True)
    rules.append("+client|setinfo")
    server.execute_command("ACL", "SETUSER", "writer", *rules)  # type: ignore[no-untyped-call]
    url = broker.replace("redis://", "redis://writer:secret@")
    publisher = Publisher(client_servers(load_config({"broker_url": url, "tenant": "acme"})))
    try:
        server.acl_log_reset()
        for task_id in ("1", "2", "3"):
            publisher.send(task_id, grant_message(), "valetkey")
        assert server.llen("valetkey") == 3
        counts = [entry["count"] for entry in server.acl_log() if entry["object"] == "hmget"]
        assert counts == [1]
    finally:
        publisher.close()
        server.acl_deluser("writer")


def test_a_request_that_waits_until_its_time_out_ends_as_busy_with_the_seconds(
    server: redis.Redis, broker: str
) -> None:
    set_states(server, acme=40)
    with (
        Client(broker, tenant="acme", requested_by="tests", retries=0) as client,
        pytest.raises(Busy) as caught,
    ):
        client.download("demo", "a").result(0.3)
    assert caught.value.retry_in == 40
    assert isinstance(caught.value, ServiceUnavailable)
    assert server.llen("valetkey") == 0


def test_an_async_request_ends_as_busy_too(server: redis.Redis, broker: str) -> None:
    set_states(server, acme=40)

    async def request() -> None:
        async with AsyncClient(broker, tenant="acme", requested_by="tests", retries=0) as client:
            await client.download("demo", "a").result(0.3)

    with pytest.raises(Busy):
        asyncio.run(request())


def test_a_busy_client_sends_by_itself_once_the_lane_has_room(
    server: redis.Redis, broker: str
) -> None:
    set_states(server, acme=1)
    with Client(broker, tenant="acme", requested_by="tests", retries=0) as client:
        handle = client.download("demo", "a")
        with pytest.raises(Busy):
            handle.result(0.1)
        set_states(server)
        with running_fake_service(broker):
            assert handle.result(20).key == "a"


def test_a_deadline_is_written_as_celerys_expiry_once(
    server: redis.Redis, publisher: Publisher
) -> None:
    for _ in range(2):
        send(publisher, headers={"expires": "2027-01-01T00:00:00+00:00"})
    newest, oldest = (json.loads(frame) for frame in server.lrange("valetkey", 0, -1))
    assert oldest["headers"]["expires"] == "2027-01-01T00:00:00+00:00"
    assert newest["headers"]["expires"] is None  # the first one may have been answered
