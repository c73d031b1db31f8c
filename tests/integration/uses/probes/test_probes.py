"""The service looks into storage because a producer asks, within bounds, and records objects."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from models import Use
from tests.integration.uses.probes.conftest import BUCKET, TEN, Slots, config, demo
from tests.support.fakes.http_storage import StorageResponse
from tests.support.s3.unreliable_storage import SLOW_DOWN
from valetkey.wire.replies import Grant
from worker.aws.s3_clients import SILENCE, CallLimits, SilentBuckets
from worker.base.database_engine import read_transaction
from worker.rules.tenant_config import Tenant, TenantConfig
from worker.uses import storage_probes
from worker.uses.storage_probes import QUICK, probe_grants
from worker.uses.use_rows import find_used_grants


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for storage as long as a busy machine needs."""
    monkeypatch.setattr(storage_probes, "QUICK", CallLimits(30, 30, QUICK.attempts))


def puts(slots: Slots, count: int) -> list[Grant]:
    """Request grants to put 3 bytes."""
    return slots.request("put", *(f"acme/{number}" for number in range(count)), size=3)


@pytest.fixture
def head_takes(slots: Slots, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that sets the seconds that pass during each HEAD, without waiting."""
    seconds = 0.0

    time = SimpleNamespace(monotonic=lambda: seconds)
    monkeypatch.setattr(storage_probes, "time", time)
    monkeypatch.setattr(slots.context.s3, "silent_buckets", SilentBuckets())

    def take(duration: float) -> None:
        def interfere(_: Any, forward: Callable[[], StorageResponse]) -> StorageResponse:
            nonlocal seconds
            seconds += duration
            return forward()

        slots.storage.interfere = interfere

    return take


def test_a_stored_object_is_found_when_somebody_asks(slots: Slots) -> None:
    first, second = puts(slots, 2)
    slots.store(second, b"abc")
    assert [s.state for s in slots.ask(first, 0, 1, probe=False).items] == ["open", "open"]
    assert [s.state for s in slots.ask(first, 0, 1).items] == ["open", "used"]
    assert slots.ask(first).counts == {"open": 1, "used": 1}


def test_an_object_that_is_known_is_not_asked_for_again(slots: Slots) -> None:
    (grant,) = puts(slots, 1)
    slots.store(grant, b"abc")
    for _ in range(3):
        slots.clock.forward(seconds=2)
        assert slots.ask(grant).counts == {"used": 1}
    assert slots.storage.count("HEAD") == 1


def test_a_grant_is_asked_for_once_a_second(slots: Slots) -> None:
    (grant,) = puts(slots, 1)
    for _ in range(5):
        assert slots.ask(grant, 0).state == "open"
    assert slots.storage.count("HEAD") == 1
    slots.clock.forward(seconds=1)
    slots.ask(grant, 0)
    assert slots.storage.count("HEAD") == 2


def test_a_message_asks_for_fifty_objects_at_most(
    slots: Slots, head_takes: Callable[[float], None]
) -> None:
    grant = puts(slots, 60)[0]
    head_takes(0)
    assert slots.ask(grant).counts == {"open": 60}
    assert slots.storage.count("HEAD") == 0  # of a whole batch, only if it is as small
    slots.ask(grant, *range(60))
    assert slots.storage.count("HEAD") == 50


def test_one_tenant_takes_half_of_a_profiles_rate(slots: Slots) -> None:
    tenants, limited = config().tenants, demo(probe_rate=10)
    twin = Tenant("twin", trust="queue", policies=tenants["acme"].policies)
    slots.apply(TenantConfig(limited.buckets, {**tenants, "twin": twin}))
    grant = puts(slots, 40)[0]
    for _ in range(3):
        slots.ask(grant)
    assert slots.storage.count("HEAD") == 5
    terms = {"kind": "put", "bucket": "demo", "expires_in": 60, "max_size": 5, "overwrite": True}
    message = {"v": 1, "tenant": "twin", "batch": grant.id.partition(".")[0], "requested_by": "x"}
    items = [{"key": f"acme/{number}", "size": 3} for number in range(20)]
    slots.issue(message | {"grant": terms, "total": 20, "items": items})
    for _ in range(3):
        slots.ask(grant, tenant="twin")
    assert slots.storage.count("HEAD") == 10


def test_a_profile_without_probes_is_not_asked(slots: Slots) -> None:
    slots.apply(demo(probe_rate=0))
    assert slots.ask(puts(slots, 1)[0]).counts == {"open": 1}
    assert slots.storage.count("HEAD") == 0


def test_an_object_of_which_storage_refuses_to_tell_hides_no_other(slots: Slots) -> None:
    odd, stored = puts(slots, 2)
    slots.store(stored, b"abc")
    slots.storage.answer_heads(StorageResponse(400), odd.key)
    assert slots.ask(odd).counts == {"open": 1, "used": 1}


def test_no_object_is_asked_for_once_two_seconds_have_passed(
    slots: Slots, head_takes: Callable[[float], None]
) -> None:
    grant = puts(slots, 9)[0]
    head_takes(1.5)
    assert slots.ask(grant).counts == {"open": 9}
    assert slots.storage.count("HEAD") == 2


@pytest.mark.parametrize("has_failed", [False, True])
def test_storage_that_takes_longer_for_one_object_is_left_alone_for_a_while(
    slots: Slots, head_takes: Callable[[float], None], *, has_failed: bool
) -> None:
    grant = puts(slots, 9)[0]
    head_takes(2.5)
    slow = slots.storage.interfere
    if has_failed:
        slots.storage.interfere = lambda request, _: slow(request, lambda: SLOW_DOWN)
    for _ in range(3):
        slots.ask(grant)
        slots.clock.forward(seconds=2)
    assert slots.storage.count("HEAD") == 1
    slots.clock.forward(seconds=15)
    slots.ask(grant)
    assert slots.storage.count("HEAD") == 2


@pytest.fixture
def frozen(slots: Slots, monkeypatch: pytest.MonkeyPatch) -> Iterator[Grant]:
    """A slot whose storage answers nothing until the test ends; calls soon give up."""
    monkeypatch.setattr(storage_probes, "QUICK", CallLimits(0.1, 0.1, QUICK.attempts))
    monkeypatch.setattr(slots.context.s3, "silent_buckets", SilentBuckets())
    grant, _ = puts(slots, 2)
    with slots.storage.frozen():
        yield grant


def test_storage_that_does_not_answer_is_sent_one_request_and_none_by_the_next_message(
    slots: Slots, frozen: Grant
) -> None:
    for _ in range(2):
        assert slots.ask(frozen).counts == {"open": 2}
        assert slots.storage.count("HEAD") == 1
        slots.clock.forward(seconds=4)


def test_storage_that_does_not_answer_is_logged_once(slots: Slots, frozen: Grant) -> None:
    with capture_logs() as logs:
        for _ in range(3):
            slots.ask(frozen)
            slots.clock.time += SILENCE
    assert slots.storage.count("HEAD") == 3
    unanswered = [each for each in logs if each["event"] == "probe_unanswered"]
    assert [(each["log_level"], each["bucket"]) for each in unanswered] == [("warning", "demo")]


def probe_all(slots: Slots, *grants: Grant) -> str | None:
    """Ask storage for the objects of grants; return why it did not answer, or None."""
    with read_transaction(slots.engine) as connection:
        config = slots.context.config.current()
        found = find_used_grants(connection, [grant.id for grant in grants], config)
    due = [found[grant.id][0] for grant in grants]
    return probe_grants(due, config.buckets["demo"], slots.context)


def test_uploads_of_each_kind_are_recorded_as_storage_has_them(slots: Slots) -> None:
    grants = slots.one_of_each_kind()
    probe_all(slots, *grants)
    columns = (Use.event, Use.source, Use.verdict, Use.size, Use.content_type)
    assert slots.rows(*columns) == [
        ("completed", "probe", "as_granted", 12, "image/png"),
        ("stored", "probe", "as_granted", 3, "image/png"),
        ("stored", "probe", "as_granted", 5, "image/png"),
    ]


def test_an_object_of_another_grant_is_recorded_for_that_one(slots: Slots) -> None:
    first, second = slots.form("acme/same"), slots.multipart("acme/same", 4)
    slots.store(second, b"1234")
    probe_all(slots, first)
    assert slots.rows(Use.batch_number, Use.event) == [(2, "completed")]


def test_an_object_that_no_grant_stored_is_recorded_for_none(slots: Slots) -> None:
    grant = slots.form("acme/foreign")
    slots.owner.put_object(Bucket=BUCKET, Key="acme/foreign", Body=b"x")
    probe_all(slots, grant)
    assert slots.asked_keys() == ["foreign"]
    assert slots.rows(Use.fingerprint) == []


def test_a_form_whose_client_chooses_the_name_is_not_probed(slots: Slots) -> None:
    probe_all(slots, *slots.request("upload", "acme/${filename}", "acme/named"))
    assert slots.asked_keys() == ["named"]


def test_what_was_found_before_storage_failed_is_recorded(slots: Slots) -> None:
    grants = slots.request("upload", "acme/first", "acme/second")
    for grant in grants:
        slots.store(grant, TEN)
    slots.storage.answer_heads(SLOW_DOWN, "second")
    assert "HTTP 503" in str(probe_all(slots, *grants))
    assert slots.rows(Use.item_number) == [(0,)]
