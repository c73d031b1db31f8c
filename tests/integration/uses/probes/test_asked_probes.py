"""The service looks into storage because a producer asks, within bounds."""

from dataclasses import replace
from typing import Any

import pytest

from tests.integration.conftest import ApplyConfig
from tests.integration.uses.probes.conftest import config
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from tests.support.s3.unreliable_storage import SLOW_DOWN, UnreliableStorage
from tests.support.uses.uploading import Uploader
from valetkey.wire.replies import Grant
from valetkey.wire.uses import UseStates
from worker.core.tenants.config import Tenant, TenantConfig


@pytest.fixture
def uploader(service: InProcessService) -> Uploader:
    return Uploader(service)


def ask(service: InProcessService, batch: str, **fields: Any) -> UseStates:
    message = {"v": 1, "ask": "status", "tenant": "acme", "batch": batch, "probe": True}
    return UseStates.model_validate(service.issue(message | fields))


def batch_of(grant: Grant) -> str:
    return grant.id.partition(".")[0]


def limited(rate: int) -> TenantConfig:
    """Return the config with another probe_rate, and a second tenant."""
    loaded = config()
    twin = Tenant("twin", trust="queue", policies=loaded.tenants["acme"].policies)
    bucket = replace(loaded.buckets["demo"], probe_rate=rate)
    return TenantConfig({"demo": bucket}, {**loaded.tenants, "twin": twin})


def test_a_stored_object_is_found_when_somebody_asks(
    service: InProcessService, uploader: Uploader
) -> None:
    grants = uploader.request("put", "acme/a", "acme/b", size=3)
    uploader.store(grants[1], b"abc")
    batch = batch_of(grants[0])
    assert [s.state for s in ask(service, batch, items=[0, 1], probe=False).items] == ["open"] * 2
    assert [s.state for s in ask(service, batch, items=[0, 1]).items] == ["open", "used"]
    assert ask(service, batch).counts == {"open": 1, "used": 1}


def test_an_object_that_is_known_is_not_asked_for_again(
    service: InProcessService, uploader: Uploader, storage: UnreliableStorage, clock: Clock
) -> None:
    grant = uploader.put("acme/a", 3)
    uploader.store(grant, b"abc")
    for _ in range(3):
        clock.forward(seconds=2)
        assert ask(service, batch_of(grant)).counts == {"used": 1}
    assert storage.count("HEAD") == 1


def test_a_grant_is_asked_for_once_a_second(
    service: InProcessService, uploader: Uploader, storage: UnreliableStorage, clock: Clock
) -> None:
    grant = uploader.put("acme/a", 3)
    for _ in range(5):
        assert ask(service, batch_of(grant), items=[0]).state == "open"
    assert storage.count("HEAD") == 1
    clock.forward(seconds=1)
    ask(service, batch_of(grant), items=[0])
    assert storage.count("HEAD") == 2


def test_a_message_asks_for_fifty_objects_at_most(
    service: InProcessService, uploader: Uploader, storage: UnreliableStorage
) -> None:
    grants = uploader.request("put", *(f"acme/{number}" for number in range(60)), size=3)
    batch = batch_of(grants[0])
    assert ask(service, batch).counts == {"open": 60}
    assert storage.count("HEAD") == 0  # of a whole batch, only if it is as small
    ask(service, batch, items=list(range(60)))
    assert storage.count("HEAD") == 50


def test_one_tenant_takes_half_of_a_profiles_rate(
    service: InProcessService,
    uploader: Uploader,
    storage: UnreliableStorage,
    apply_config: ApplyConfig,
) -> None:
    apply_config(limited(10))
    grants = uploader.request("put", *(f"acme/{number}" for number in range(40)), size=3)
    for _ in range(3):
        ask(service, batch_of(grants[0]))
    assert storage.count("HEAD") == 5
    message = {"v": 1, "tenant": "twin", "batch": batch_of(grants[0]), "requested_by": "x"}
    terms = {"kind": "put", "bucket": "demo", "expires_in": 60, "max_size": 5, "overwrite": True}
    items = [{"key": f"acme/{number}", "size": 3} for number in range(20)]
    service.issue(message | {"grant": terms, "total": 20, "items": items})
    for _ in range(3):
        ask(service, batch_of(grants[0]), tenant="twin")
    assert storage.count("HEAD") == 10


@pytest.mark.parametrize("rate", [0, 20])
def test_downloads_and_profiles_without_probes_are_not_asked_for(
    rate: int,
    service: InProcessService,
    uploader: Uploader,
    storage: UnreliableStorage,
    apply_config: ApplyConfig,
) -> None:
    apply_config(limited(rate))
    kind = "put" if rate == 0 else "upload"
    grant = uploader.request(kind, "acme/a" if rate == 0 else "acme/${filename}", size=3)[0]
    assert ask(service, batch_of(grant)).counts == {"open": 1}
    assert storage.count("HEAD") == 0


def test_storage_that_cannot_answer_changes_no_reply(
    service: InProcessService, uploader: Uploader, storage: UnreliableStorage, clock: Clock
) -> None:
    grant = uploader.put("acme/a", 3)
    uploader.store(grant, b"abc")
    storage.interfere = lambda request, forward: (
        SLOW_DOWN if request.method == "HEAD" else forward()
    )
    assert ask(service, batch_of(grant)).counts == {"open": 1}
    storage.reset()
    clock.forward(seconds=2)
    assert ask(service, batch_of(grant)).counts == {"used": 1}
