"""The service looks into storage because a producer asks, within bounds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.integration.conftest import ApplyConfig
from tests.integration.uses.probes.conftest import config
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from tests.support.fakes.http_storage import StorageResponse
from tests.support.s3.unreliable_storage import SLOW_DOWN, UnreliableStorage
from tests.support.uses.uploading import Uploader
from valetkey.wire.replies import Grant
from valetkey.wire.uses import UseStates
from worker.aws.clients import S3Clients
from worker.aws.silent_buckets import SilentBuckets
from worker.core.tenants.config import Tenant, TenantConfig
from worker.usecases.uses import asked_probes


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


def test_a_form_whose_client_chooses_the_name_is_not_asked_for(
    service: InProcessService, uploader: Uploader, storage: UnreliableStorage
) -> None:
    free, other = uploader.request("upload", "acme/${filename}", "acme/a")
    assert ask(service, batch_of(free)).counts == {"open": 2}
    assert [request.target for request in storage.server.requests("HEAD")] == ["/probes/acme/a"]
    assert other.id == f"{batch_of(free)}.1"


@pytest.mark.parametrize(("rate", "requests"), [(0, 0), (20, 1)])
def test_a_profile_without_probes_is_not_asked(
    rate: int,
    requests: int,
    service: InProcessService,
    uploader: Uploader,
    storage: UnreliableStorage,
    apply_config: ApplyConfig,
) -> None:
    apply_config(limited(rate))
    grant = uploader.put("acme/a", 3)
    assert ask(service, batch_of(grant)).counts == {"open": 1}
    assert storage.count("HEAD") == requests


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


def test_an_object_of_which_storage_refuses_to_tell_hides_no_other(
    service: InProcessService, uploader: Uploader, storage: UnreliableStorage
) -> None:
    grants = uploader.request("put", "acme/odd", "acme/b", size=3)
    uploader.store(grants[1], b"abc")
    storage.interfere = lambda request, forward: (
        StorageResponse(400) if request.target.endswith("/odd") else forward()
    )
    assert ask(service, batch_of(grants[0])).counts == {"open": 1, "used": 1}


@pytest.fixture
def head_takes(
    s3: S3Clients, storage: UnreliableStorage, monkeypatch: pytest.MonkeyPatch
) -> Callable[[float], None]:
    """A function that sets the seconds that pass during each HEAD, without waiting."""
    seconds = 0.0

    class FakeTime:
        @staticmethod
        def monotonic() -> float:
            return seconds

    monkeypatch.setattr(asked_probes, "time", FakeTime)
    monkeypatch.setattr(s3, "silent_buckets", SilentBuckets())

    def take(duration: float) -> None:
        def interfere(_: Any, forward: Callable[[], StorageResponse]) -> StorageResponse:
            nonlocal seconds
            seconds += duration
            return forward()

        storage.interfere = interfere

    return take


def test_no_object_is_asked_for_once_two_seconds_have_passed(
    service: InProcessService,
    uploader: Uploader,
    storage: UnreliableStorage,
    head_takes: Callable[[float], None],
) -> None:
    grants = uploader.request("put", *(f"acme/{number}" for number in range(9)), size=3)
    head_takes(1.5)
    assert ask(service, batch_of(grants[0])).counts == {"open": 9}
    assert storage.count("HEAD") == 2


def test_storage_that_takes_longer_for_one_object_is_left_alone_for_a_while(
    service: InProcessService,
    uploader: Uploader,
    storage: UnreliableStorage,
    clock: Clock,
    head_takes: Callable[[float], None],
) -> None:
    grants = uploader.request("put", *(f"acme/{number}" for number in range(9)), size=3)
    head_takes(2.5)
    for _ in range(3):
        ask(service, batch_of(grants[0]))
        clock.forward(seconds=2)
    assert storage.count("HEAD") == 1
    clock.forward(seconds=15)
    ask(service, batch_of(grants[0]))
    assert storage.count("HEAD") == 2


def test_storage_that_fails_slowly_is_left_alone_for_a_while(
    service: InProcessService,
    uploader: Uploader,
    storage: UnreliableStorage,
    clock: Clock,
    head_takes: Callable[[float], None],
) -> None:
    grant = uploader.put("acme/a", 3)
    head_takes(2.5)
    slow = storage.interfere
    storage.interfere = lambda request, _: slow(request, lambda: SLOW_DOWN)
    for _ in range(3):
        ask(service, batch_of(grant))
        clock.forward(seconds=2)
    assert storage.count("HEAD") == 1
