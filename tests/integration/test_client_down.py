from pathlib import Path

import pytest

from tests.answering import answering
from valetkey import BrokerUnreachable, Client
from worker.embedded.broker import valkey

KEYS = [f"k/{number}" for number in range(50)]
NOWHERE = "redis://:s3cret@127.0.0.1:1/0"  # no one listens on port 1


@pytest.mark.parametrize("url", [NOWHERE, "amqp://user:s3cret@127.0.0.1:1//"])
def test_a_broker_that_is_down_is_named_without_its_password(broker: str, url: str) -> None:
    with pytest.raises(BrokerUnreachable, match=r"no broker answers at \w+://127.0.0.1:1/") as c:
        Client(url, broker, tenant="acme").download("reports", "a.pdf")
    assert "s3cret" not in str(c.value)


def test_a_result_store_that_is_down_is_named_without_its_password(broker: str) -> None:
    with pytest.raises(BrokerUnreachable, match=r"no result store answers at redis://127") as c:
        Client(broker, NOWHERE, tenant="acme").download("reports", "a.pdf")
    assert "s3cret" not in str(c.value)


def test_a_broker_that_lost_everything_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.sender.FIRST_GAP", 0.1)
    with valkey(tmp_path / "before") as server:
        client = Client(server.url(), tenant="acme")
        handle = client.download("reports", "a.pdf")
    with pytest.raises(BrokerUnreachable):
        handle.result(1)
    with valkey(tmp_path / "after", server.port) as again, answering(again.url()), client:
        assert client.download("reports", "b.pdf").result(20).key == "b.pdf"
        assert handle.result(20).key == "a.pdf"
