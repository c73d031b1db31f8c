import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakes.fake_service import running_fake_service
from tests.support.servers.event_loop import async_client, in_event_loop
from valetkey import BrokerUnreachable, Client
from valetkey.delivery.publisher import Publisher
from worker.devstack.broker import running_valkey

KEYS = [f"k/{number}" for number in range(50)]
ORIGINAL_SEND = Publisher.send
NOWHERE = "redis://:s3cret@127.0.0.1:1/0"  # no one listens on port 1


def break_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the broker unreachable for usage messages, and send no message twice."""
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)

    def send(self: Publisher, task_id: str, argument: Any, queue: str) -> None:
        if argument.get("ask") == "usage":
            raise BrokerUnreachable("no broker answers")
        ORIGINAL_SEND(self, task_id, argument, queue)

    monkeypatch.setattr(Publisher, "send", send)


@pytest.mark.parametrize("url", [NOWHERE, "amqp://user:s3cret@127.0.0.1:1//"])
def test_a_broker_that_is_down_is_named_without_its_password(broker: str, url: str) -> None:
    with pytest.raises(
        BrokerUnreachable, match=r"cannot use the broker at \w+://127.0.0.1:1/"
    ) as caught:
        Client(url, broker, tenant="acme").download("reports", "a.pdf")
    assert "s3cret" not in str(caught.value)


def test_a_result_store_that_is_down_is_named_without_its_password(broker: str) -> None:
    with pytest.raises(
        BrokerUnreachable, match=r"cannot use the result store at redis://127"
    ) as caught:
        Client(broker, NOWHERE, tenant="acme").download("reports", "a.pdf")
    assert "s3cret" not in str(caught.value)


def test_a_stuck_message_that_was_given_up_holds_back_nothing(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_usage(monkeypatch)
    with running_fake_service(broker), Client(broker, tenant="acme") as client:
        batch = client.download_many("reports", KEYS, chunk_size=1)
        with pytest.raises(BrokerUnreachable):
            client.usage(2)
        client.flush(10)
        assert batch.issued == len(KEYS)


@in_event_loop
async def test_a_stuck_message_that_was_given_up_holds_back_no_flush(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_usage(monkeypatch)
    with running_fake_service(broker):
        async with async_client(broker) as client:
            batch = client.download_many("reports", KEYS, chunk_size=1)
            with pytest.raises(BrokerUnreachable):
                await client.usage(2)
            async with asyncio.timeout(10):
                await client.flush()
            assert batch.issued == len(KEYS)


def test_a_broker_that_lost_every_message_gets_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 0.1)
    with running_valkey(tmp_path / "before") as server:
        client = Client(server.url(), tenant="acme")
        handle = client.download("reports", "a.pdf")
    with pytest.raises(BrokerUnreachable):
        handle.result(1)
    with (
        running_valkey(tmp_path / "after", server.port) as restarted,
        running_fake_service(restarted.url()),
        client,
    ):
        assert client.download("reports", "b.pdf").result(20).key == "b.pdf"
        assert handle.result(20).key == "a.pdf"
