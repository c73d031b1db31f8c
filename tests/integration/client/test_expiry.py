"""Nothing dead is handed out as good: stored results that have expired, or soon will."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis

from tests.support.builders.keyed_service import keyed_client, running_keyed_service, wire_result
from tests.support.fakes.fake_service import FakeService, running_fake_service
from tests.support.servers.waiting import wait_until
from valetkey import Client, Expired, Grant, Refusal, new_id, session
from valetkey.handles import BaseBatchHandle
from valetkey.wire import requests
from worker import clock
from worker.shared.worker_states import queue_lengths

KEYS = [f"acme/{number}" for number in range(30)]


class Night:
    """A service and a client that asks it, at a time that passes for both together."""

    def __init__(
        self, service: FakeService, client: Client, broker: str, patch: pytest.MonkeyPatch
    ) -> None:
        self.service = service
        self._broker = broker
        self.client = client
        self._passed = 0.0  # seconds
        client_time = SimpleNamespace(
            time=lambda: time.time() + self._passed,
            time_ns=lambda: time.time_ns() + int(self._passed * 10**9),
        )
        patch.setattr(session, "time", client_time)
        patch.setattr(client._dispatcher._codec, "_clock", client_time.time)

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._passed)

    def end(self, seconds: float = 86_400) -> None:
        """Let a day pass, once the copies of messages that were sent again are answered."""
        with redis.Redis.from_url(self._broker) as broker:
            wait_until(lambda: not sum(queue_lengths(broker).values()), what="the queues are empty")
        self.client.usage()
        self._passed += seconds

    def seconds_left(self, grant: Grant) -> float:
        return (grant.expires_at - self.now()).total_seconds()

    def first(self, batch_id: str) -> list[Grant]:
        """Request links that expire in an hour, and let a day pass."""
        batch = self.client.download_many("demo", KEYS, batch_id=batch_id, expires_in=3600)
        grants = [result for result in batch if isinstance(result, Grant)]
        assert len(grants) == len(KEYS)
        self.end()
        return grants

    def count_reissues(self) -> int:
        messages = [message for _, message in self.service.received]
        return len({each["batch"] for each in messages if each.get("ask") == "reissue"})


@pytest.fixture
def night(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Night]:
    times: list[Callable[[], datetime]] = [clock.now]

    def now() -> datetime:
        return times[-1]()

    with (
        running_keyed_service(tmp_path, now) as respond,
        running_fake_service(broker, decide=wire_result(respond)) as service,
        keyed_client(broker) as client,
    ):
        night = Night(service, client, broker, monkeypatch)
        times.append(night.now)
        yield night


def test_expired_links_of_a_repeated_batch_are_issued_again(night: Night) -> None:
    batch_id = new_id()
    night.first(batch_id)
    batch = night.client.download_many("demo", KEYS, batch_id=batch_id, expires_in=3600)
    assert [(type(result), result.key) for result in batch] == [(Grant, key) for key in KEYS]
    grants = [result for result in batch if isinstance(result, Grant)]
    assert all(night.seconds_left(grant) > 3500 for grant in grants)


def test_each_expired_link_is_issued_again_once_however_often_it_is_read(night: Night) -> None:
    batch_id = new_id()
    night.first(batch_id)
    batch = night.client.batch(batch_id)
    assert list(batch) == list(batch)
    assert night.count_reissues() == len(KEYS)


def test_without_a_smallest_time_left_an_expired_link_is_handed_out(night: Night) -> None:
    batch_id = new_id()
    old = night.first(batch_id)
    again = night.client.with_options(min_left=0).batch(batch_id)
    assert [result.id for result in again if isinstance(result, Grant)] == [g.id for g in old]
    assert all(night.seconds_left(grant) < 0 for grant in old)


def test_an_expired_slot_is_not_issued_twice(night: Night) -> None:
    batch_id = new_id()
    old = night.client.upload("demo", "acme/slot", max_size=10, batch_id=batch_id).result()
    night.end()
    with pytest.raises(Expired, match="request it with a new batch id") as caught:
        night.client.upload("demo", "acme/slot", max_size=10, batch_id=batch_id).result()
    assert caught.value.grant.id == old.id
    assert old.url not in str(caught.value)
    assert night.count_reissues() == 0


@pytest.mark.parametrize(("passed", "reissues"), [(3200, 0), (3300, 1)])
def test_a_link_is_issued_again_once_less_than_a_tenth_of_its_time_is_left(
    night: Night, passed: float, reissues: int
) -> None:
    batch_id = new_id()
    old = night.client.download("demo", "acme/a", batch_id=batch_id, expires_in=3600).result()
    night.end(passed)
    again = night.client.download("demo", "acme/a", batch_id=batch_id, expires_in=3600).result()
    assert (again.id != old.id, night.count_reissues()) == (bool(reissues), reissues)


def test_a_fresh_grant_that_the_policy_limits_is_handed_out(night: Night) -> None:
    client = night.client.with_options(min_left=604_800)
    assert client.download("demo", "acme/a").result().id.endswith(".0")
    assert night.count_reissues() == 0


def test_a_link_that_has_just_been_issued_is_handed_out_again_whatever_min_left_is(
    night: Night,
) -> None:
    batch_id, client = new_id(), night.client.with_options(min_left=604_800)
    first = client.download("demo", "acme/a", batch_id=batch_id).result()
    again = client.batch(batch_id)
    assert list(again) == list(again) == [first]
    assert night.count_reissues() == 0


def test_a_link_that_the_policy_makes_shorter_than_min_left_is_not_handed_out_dead(
    night: Night,
) -> None:
    handle = night.client.with_options(min_left=7200).download("demo", "acme/a", expires_in=3600)
    night.client.flush(10)
    night.end(7200)
    assert night.seconds_left(handle.result()) > 3000
    assert handle.result() == handle.result()
    assert night.count_reissues() == 1


def test_an_expired_slot_is_refused_as_often_as_it_is_read(night: Night) -> None:
    batch_id = new_id()
    keys = KEYS[:3]
    list(night.client.upload_many("demo", keys, max_size=10, batch_id=batch_id))
    night.end()
    batch = night.client.upload_many("demo", keys, max_size=10, batch_id=batch_id)
    single = night.client.upload("demo", keys[0], max_size=10, batch_id=new_id())
    night.client.flush(10)
    night.end()
    reads: list[Callable[[], object]] = [single.result, lambda: next(iter(batch))]
    for read in reads:
        for _ in range(2):
            with pytest.raises(Expired, match="0'"):
                read()
    with pytest.raises(Expired, match="1'"):
        next(batch.results())  # goes on, as after any other result


def test_a_link_that_is_not_issued_again_is_a_refused_item(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = new_id()
    night.first(batch_id)
    batch = night.client.batch(batch_id)
    build = requests.reissue_message
    monkeypatch.setattr(
        requests,
        "reissue_message",
        lambda requester, name, _grant, options: build(requester, name, f"{name}.0", options),
    )
    results = list(batch)
    assert list(batch) == results
    assert [(type(result), result.key) for result in results] == [(Refusal, key) for key in KEYS]
    assert (batch.issued, batch.refused) == (0, len(KEYS))


def test_an_interrupted_wait_for_a_link_loses_no_item(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = new_id()
    night.first(batch_id)
    batch = night.client.batch(batch_id)
    with monkeypatch.context() as patch:
        patch.setattr(BaseBatchHandle, "_renew", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(batch.results())
    assert [result.key for result in batch] == KEYS


async def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("passed", "reissues"), [(3200, 0), (3300, len(KEYS))])
def test_links_that_wait_to_be_read_until_they_expire_are_issued_again(
    night: Night, passed: float, reissues: int
) -> None:
    batch = night.client.download_many("demo", KEYS, expires_in=3600)
    night.client.flush(10)
    night.end(passed)
    assert [result.key for result in batch] == KEYS
    assert night.count_reissues() == reissues


@pytest.mark.parametrize(("passed", "reissues"), [(77_000, 0), (78_000, 1)])
def test_a_stored_link_that_the_policy_limits_is_judged_by_its_own_lifetime(
    night: Night, passed: float, reissues: int
) -> None:
    def request() -> Grant:
        handle = night.client.download(
            "demo", "acme/a", batch_id=batch_id, expires_in=604_800, min_expires_in=1
        )
        return handle.result()

    batch_id = new_id()
    assert request().limited_by == "policy"
    night.end(passed)
    request()
    assert night.count_reissues() == reissues
