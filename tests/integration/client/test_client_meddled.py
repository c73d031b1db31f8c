"""Whoever can write to the result store is not believed."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.support.builders.keyed_service import (
    OLD,
    Answering,
    keyed_client,
    running_keyed_service,
    wire_result,
)
from tests.support.crypto.keys import public_half
from tests.support.fakes.fake_service import running_fake_service, stored_results
from valetkey import NoAnswer, SealedForAnotherKey
from worker.core.auth.seal import seal


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answering]:
    with running_keyed_service(tmp_path_factory.mktemp("keyed")) as service:
        yield service


@pytest.fixture
def broker(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 0.1)
    return valkey_url


class Meddling:
    """A service whose first answers somebody replaces, who can write to the result store."""

    def __init__(self, service: Answering, replace: Any, times: int = 2) -> None:
        self._service = service
        self._replace = replace
        self.left = times

    def __call__(self, raw: Any) -> Any:
        answer = self._service(raw)
        if self.left <= 0:
            return answer.wire
        self.left -= 1
        return self._replace(answer)


def altered(answer: Any) -> Any:
    return answer.wire[:-6] + ("AAAAAA" if answer.wire[-6:] != "AAAAAA" else "BBBBBB")


@pytest.mark.parametrize(
    "replace",
    [
        altered,
        lambda answer: answer.said,
        lambda answer: {**answer.said, "status": "refused", "refusal": forged("quota_exceeded")},
        lambda _: "a.b.c.d.e",
    ],
    ids=["altered", "in the clear", "refused by a stranger", "junk"],
)
def test_a_false_answer_is_as_good_as_none(service: Answering, broker: str, replace: Any) -> None:
    meddling = Meddling(service, replace)
    with running_fake_service(broker, decide=meddling) as queue, keyed_client(broker) as client:
        assert client.download("demo", "acme/a").result(10).key == "acme/a"
    assert meddling.left == 0
    assert len(queue.raw) > 2


def forged(code: str) -> dict[str, Any]:
    return {"code": code, "field": "total", "message": "over"}


def test_an_answer_is_of_no_use_in_anothers_place(
    service: Answering, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    with running_fake_service(broker, decide=wire_result(service)) as queue:
        with keyed_client(broker) as client:
            client.download("demo", "acme/a").result(10)
        (earlier,) = queue.raw
    with (
        running_fake_service(broker, decide=lambda _: service(earlier).wire),
        keyed_client(broker) as client,
        pytest.raises(NoAnswer),
    ):
        client.download("demo", "acme/b").result(0.5)


def test_an_answer_sealed_to_another_key_says_to_which_and_no_more(
    service: Answering, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    token = seal(b'{"url": "s3cret"}', OLD.id, public_half(OLD))
    with (
        running_fake_service(broker, decide=Meddling(service, lambda _: token, 1)),
        keyed_client(broker) as client,
    ):
        handle = client.download("demo", "acme/a")
        with pytest.raises(SealedForAnotherKey, match="'acme/2025-11'") as caught:
            handle.result(10)
        assert "s3cret" not in str(caught.value)
        assert stored_results(broker) == {}  # or it would be found again
        assert handle.result(10).key == "acme/a"
