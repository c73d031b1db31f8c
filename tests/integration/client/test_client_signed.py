"""A client with a key; tests/acceptance has the same on the real stack."""

import time
from typing import Any

import pytest

from tests.support.builders.keyed_service import (
    Respond,
    keyed_client,
    wire_result,
)
from tests.support.fakes.fake_service import running_fake_service, stored_results
from valetkey import Client, Code, Grant, Refusal, Refused
from valetkey.crypto.keys import generate_key

KEYS = [f"acme/{number}.pdf" for number in range(40)]


def test_a_lost_message_is_signed_again_and_charged_once(service: Respond, broker: str) -> None:
    with (
        running_fake_service(
            broker,
            lambda _, arrival: "lose" if arrival == 1 else "answer",
            wire_result(service),
        ) as queue,
        keyed_client(broker) as client,
    ):
        (before,) = client.usage(10)
        with pytest.MonkeyPatch.context() as patch:
            times = iter(int(time.time()) + second for second in range(-50, 0))
            patch.setattr(client._dispatcher._codec, "_clock", times.__next__)
            batch = client.download_many("demo", ["acme/a"])
            assert len(list(batch.results(10))) == 1
        (after,) = client.usage(10)
    issued = [message["iat"] for _, message in queue.received if message.get("batch") == batch.id]
    assert len(set(issued)) == len(issued) > 1
    assert after.used - before.used == 1
    assert batch.quotas == [after]


def test_usage_and_a_cancellation_are_sealed_as_well(
    keyed: Client, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    batch = keyed.download_many("demo", KEYS, chunk_size=1)
    assert isinstance(next(batch.results(10)), Grant)
    cancelled = keyed.cancel(batch, "enough", 10)
    (quota,) = keyed.usage(10)
    results = list(batch.results(10))
    assert quota.warns
    assert cancelled.issued + cancelled.released == len(KEYS)
    assert batch.issued == cancelled.issued
    assert {result.code for result in results if isinstance(result, Refusal)} <= {Code.BATCH_CLOSED}
    assert not [text for text in stored_results(broker).values() if '"result": {' in text]


def test_an_unknown_key_is_refused_with_what_to_check(service: Respond, broker: str) -> None:
    with (
        running_fake_service(broker, decide=wire_result(service)),
        keyed_client(broker, generate_key("acme/none")) as client,
        pytest.raises(Refused) as caught,
    ):
        client.download("demo", "acme/a").result(10)
    refusal = caught.value.refusal
    assert refusal.code is Code.SIGNATURE_INVALID
    assert "kid is TENANT/NAME as in tenants.toml" in refusal.message


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
    ],
    ids=["altered", "in the clear"],
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
