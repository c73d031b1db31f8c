import json
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
