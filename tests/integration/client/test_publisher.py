import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery.signals import before_task_publish

from tests.support.builders.messages import grant_message
from valetkey.config import load_config
from valetkey.delivery.transport import Publisher, client_servers

# The first one is new for every message. The service ignores the others.
_NOT_COMPARED = ("delivery_tag", "reply_to", "argsrepr", "kwargsrepr")


@pytest.fixture
def publisher(broker: str) -> Iterator[Publisher]:
    publisher = Publisher(client_servers(load_config({"broker_url": broker, "tenant": "acme"})))
    yield publisher
    publisher.close()


def published_frame(broker: str) -> dict[str, Any]:
    with redis.Redis.from_url(broker) as server:
        frame: dict[str, Any] = json.loads(server.rpop("valetkey"))
        assert server.dbsize() == 0
    return frame


def test_a_message_is_written_exactly_as_celery_writes_it(
    broker: str, publisher: Publisher
) -> None:
    message = grant_message(["acme/Ä \ud800.pdf"])
    publisher.send("1", message, "valetkey")
    ours = published_frame(broker)
    publisher._send_task("1", message, "valetkey")
    celerys = published_frame(broker)
    for frame in (ours, celerys):
        assert frame["headers"].pop("ignore_result") in {False, None}
        assert frame["headers"].pop("sent_at") == pytest.approx(time.time() * 1_000, abs=60_000)
        for name in _NOT_COMPARED:
            frame["properties"].pop(name, None)
    assert ours == celerys
    assert next(iter(ours)) == "body"


def test_a_listener_to_celerys_signals_adds_headers(broker: str, publisher: Publisher) -> None:
    def add_header(headers: dict[str, Any], **_: Any) -> None:
        headers["traceparent"] = "00-1-2-01"

    before_task_publish.connect(add_header)
    try:
        publisher.send("1", grant_message(), "valetkey")
    finally:
        before_task_publish.disconnect(add_header)
    assert published_frame(broker)["headers"]["traceparent"] == "00-1-2-01"


def test_no_header_repeats_a_part_of_the_message(broker: str, publisher: Publisher) -> None:
    for send in (publisher._push, publisher._send_task):
        send("1", grant_message(reason="a secret reason"), "valetkey")
        assert "a secret reason" not in str(published_frame(broker)["headers"])


def frames(broker: str, key: str) -> list[bytes]:
    """Return the frames in a list, the oldest first."""
    with redis.Redis.from_url(broker) as server:
        found: list[bytes] = server.lrange(key, 0, -1)
        return found[::-1]


def test_a_further_copy_is_marked_and_replaces_the_second_one(
    broker: str, publisher: Publisher
) -> None:
    for _ in range(4):
        publisher.send("1", grant_message(), "valetkey")
    first, copy = (json.loads(frame)["properties"] for frame in frames(broker, "valetkey"))
    assert "redelivered" not in first["delivery_info"]
    assert copy["delivery_info"]["redelivered"] is True


LANES = [("valetkey", ""), ("valetkey.waiting:acme", ""), ("valetkey.bulk", " ")]


@pytest.mark.parametrize(("key", "end"), LANES, ids=["queue", "lane", "served"])
def test_a_message_is_found_and_withdrawn_wherever_it_waits(
    broker: str, publisher: Publisher, key: str, end: str
) -> None:
    for task_id in ("1", "2"):
        publisher.send(task_id, grant_message(), "valetkey")
    with redis.Redis.from_url(broker) as server:
        moved = [frame + end.encode() for frame in frames(broker, "valetkey")]
        server.delete("valetkey")
        server.lpush(key, *moved)
    assert publisher.is_waiting("1")
    publisher.remove(publisher.forget(["1"]))
    assert frames(broker, key) == moved[1:]
    publisher.forget(["2"])
    assert publisher.is_waiting("2") is None


def test_a_message_that_was_taken_waits_no_more(broker: str, publisher: Publisher) -> None:
    publisher.send("1", grant_message(), "valetkey")
    published_frame(broker)
    assert publisher.is_waiting("1") is False
