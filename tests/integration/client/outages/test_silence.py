"""A request of which nothing is heard: whether a worker has taken it from the queue."""

import pytest
import redis

from tests.support.fakes.fake_service import running_fake_service
from tests.support.servers.event_loop import async_client, in_event_loop
from tests.support.servers.waiting import wait_until
from valetkey import Client, NoAnswer

NOT_TAKEN = "no worker takes it from the queue: is one running"
TAKEN = "a worker took it from the queue and has not answered"


def test_a_message_that_waits_in_the_queue_was_taken_by_no_worker(client: Client) -> None:
    with pytest.raises(NoAnswer, match=NOT_TAKEN):
        client.usage(0.3)


def test_a_message_that_left_the_queue_was_taken_by_a_worker(
    broker: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    with running_fake_service(broker, lambda _message, _arrival: "lose") as service:
        handle = client.download("reports", "a.pdf")
        wait_until(lambda: service.arrivals)
        with pytest.raises(NoAnswer, match=TAKEN):
            handle.result(0.3)


@in_event_loop
async def test_a_client_in_an_event_loop_tells_these_apart(broker: str) -> None:
    async with async_client(broker) as client:
        with pytest.raises(NoAnswer, match=NOT_TAKEN):
            await client.usage(0.3)


def test_a_producer_that_may_not_read_the_queue_is_told_less_and_asks_once(broker: str) -> None:
    with redis.Redis.from_url(broker) as admin:
        admin.execute_command("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all", "-llen")
        admin.execute_command("ACL", "LOG", "RESET")
        try:
            url = broker.replace("redis://", "redis://bob:pw@")
            with Client(url, tenant="acme", exit_timeout=0) as client:
                for _ in range(2):
                    with pytest.raises(NoAnswer, match=r"s: is a worker running\?"):
                        client.usage(0.3)
            denied = admin.acl_log()
            assert [(entry["object"], entry["count"]) for entry in denied] == [("llen", 1)]
        finally:
            admin.execute_command("ACL", "DELUSER", "bob")
