"""Clients and services of different releases: what the service can do, and what it refuses."""

from typing import Any

import pytest

from tests.support.fakes.fake_service import refuse_outcome, running_fake_service
from valetkey import Client, Code, Refusal, Refused
from valetkey.wire import RELEASE

# Limits of release 0.1.0: a later one may raise them.
LIMITS_OF_0_1 = {
    "max_batch_items": 1_000_000,
    "max_chunk_items": 1_000,
    "default_chunk_items": 600,
    "max_interactive_items": 20,
    "max_frame_bytes": 8 * 1024**2,
    "max_message_bytes": 4 * 1024**2,
    "max_message_age": 86_400,
    "max_clock_skew": 60,
    "max_expires_in": 604_800,
    "max_object_bytes": 5 * 1024**3,
    "max_multipart_bytes": 5 * 1024**4,
    "min_part_bytes": 5 * 1024**2,
    "max_parts": 10_000,
}


def test_the_service_tells_its_release_and_limits(broker: str, client: Client) -> None:
    with running_fake_service(broker):
        service = client.service()
    assert (service.release, service.versions) == (RELEASE, [1])
    first = ["grants", "explain", "usage", "cancel", "batch", "service"]
    assert service.asks == [*first, "status", "reissue", "bundle", "listen"]
    assert service.kinds == ["download", "upload", "put", "multipart", "parts"]
    assert service.limits.model_dump() == LIMITS_OF_0_1


def test_the_real_service_describes_itself_to_a_signed_request(keyed: Client) -> None:
    assert keyed.service().release == RELEASE


def test_a_service_that_cannot_read_a_field_is_called_older(broker: str, client: Client) -> None:
    refusal = {"code": "unknown_field", "field": "grant.inline", "message": "unknown field"}

    def refuse(message: dict[str, Any]) -> dict[str, Any]:
        return refuse_outcome(message) | {"refusal": refusal}

    with running_fake_service(broker, decide=refuse):
        with pytest.raises(Refused, match=r"grant\.inline|the service is older") as caught:
            client.download("demo", "acme/a", inline=True).result(10)
        for result in client.download_many("demo", ["acme/a", "acme/b"]).results(10):
            assert isinstance(result, Refusal)
            assert "the service is older" in result.message
    assert caught.value.refusal.code is Code.UNKNOWN_FIELD
