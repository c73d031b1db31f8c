"""A client that waits for every result, or is closed without them."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.fakes.fake_service import running_fake_service
from valetkey import Client, NoAnswer

KEYS = [f"k/{number}" for number in range(50)]


def test_a_wait_ends_at_the_deadline(client: Client) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=1.2)
    handle = client.download("reports", "a.pdf", deadline=deadline)
    with pytest.raises(NoAnswer):
        handle.result(60)
    assert deadline <= datetime.now(UTC) < deadline + timedelta(seconds=30)
    client.flush(0)  # the request was given up


def test_a_closed_client_sends_nothing_and_waits_for_nothing(broker: str) -> None:
    with Client(broker, tenant="acme", exit_timeout=None) as client, running_fake_service(broker):
        complete = client.download_many("reports", KEYS[:3])
        client.flush(10)
        incomplete = client.download("nowhere", "a.pdf")
        client.close()
    assert [result.key for result in complete] == KEYS[:3]
    for ask in (incomplete.result, client.usage, lambda: client.download("reports", "b.pdf")):
        with pytest.raises(RuntimeError, match="the client is closed"):
            ask()


def test_a_flush_waits_for_every_answer(broker: str, client: Client) -> None:
    with running_fake_service(broker, lambda _, arrival: "lose" if arrival == 1 else "answer"):
        batch = client.download_many("reports", KEYS, chunk_size=1)
        handle = client.download("reports", "a.pdf")
        client.flush(20)
    assert (batch.issued, handle.result(0).key) == (50, "a.pdf")


def test_leaving_the_block_waits_for_every_answer(broker: str) -> None:
    with running_fake_service(broker) as service, Client(broker, tenant="acme") as client:
        client.download_many("reports", KEYS, chunk_size=1)
    assert len(service.arrivals) == 50


def test_leaving_the_block_without_an_answer_is_an_error(broker: str) -> None:
    with (
        pytest.raises(NoAnswer, match=r"within 0.2 s"),
        Client(broker, tenant="acme", exit_timeout=0.2) as client,
    ):
        client.download("reports", "a.pdf")
