"""Forged results in the result store are not accepted."""

from typing import Any

import pytest

from tests.support.builders.keyed_service import (
    OLD,
    Respond,
    keyed_client,
    wire_result,
)
from tests.support.crypto.keys import public_key
from tests.support.fakes.fake_service import running_fake_service, stored_results
from valetkey import NoAnswer, SealedForAnotherKey
from worker.core.auth.seal import seal


class ForgingService:
    """A service whose first results are replaced by an attacker with access to the store."""

    def __init__(self, service: Respond, replace: Any, times: int = 2) -> None:
        self._service = service
        self._replace = replace
        self.remaining = times

    def __call__(self, raw: Any) -> Any:
        response = self._service(raw)
        if self.remaining <= 0:
            return response.sent
        self.remaining -= 1
        return self._replace(response)


def alter(response: Any) -> Any:
    return response.sent[:-6] + ("AAAAAA" if response.sent[-6:] != "AAAAAA" else "BBBBBB")


@pytest.mark.parametrize(
    "replace",
    [
        alter,
        lambda response: response.values,
        lambda response: {
            **response.values,
            "status": "refused",
            "refusal": forged_refusal("quota_exceeded"),
        },
        lambda _: "a.b.c.d.e",
    ],
    ids=["altered", "in the clear", "forged refusal", "junk"],
)
def test_a_forged_result_counts_as_no_answer(service: Respond, broker: str, replace: Any) -> None:
    service_with_forgeries = ForgingService(service, replace)
    with (
        running_fake_service(broker, decide=service_with_forgeries) as queue,
        keyed_client(broker) as client,
    ):
        assert client.download("demo", "acme/a").result(10).key == "acme/a"
    assert service_with_forgeries.remaining == 0
    assert len(queue.raw) > 2


def forged_refusal(code: str) -> dict[str, Any]:
    return {"code": code, "field": "total", "message": "over"}


def test_the_result_of_another_request_is_not_accepted(
    service: Respond, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    with running_fake_service(broker, decide=wire_result(service)) as queue:
        with keyed_client(broker) as client:
            client.download("demo", "acme/a").result(10)
        (other_message,) = queue.raw
    with (
        running_fake_service(broker, decide=lambda _: service(other_message).sent),
        keyed_client(broker) as client,
        pytest.raises(NoAnswer),
    ):
        client.download("demo", "acme/b").result(0.5)


def test_the_error_for_a_result_sealed_for_another_key_names_only_the_key(
    service: Respond, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    token = seal(b'{"url": "s3cret"}', OLD.id, public_key(OLD))
    with (
        running_fake_service(broker, decide=ForgingService(service, lambda _: token, 1)),
        keyed_client(broker) as client,
    ):
        handle = client.download("demo", "acme/a")
        with pytest.raises(SealedForAnotherKey, match="'acme/2025-11'") as caught:
            handle.result(10)
        assert "s3cret" not in str(caught.value)
        assert stored_results(broker) == {}  # else a lookup would return it again
        assert handle.result(10).key == "acme/a"
