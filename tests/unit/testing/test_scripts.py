"""A test says what a fake client gets: refusals, stalls, expiry, stored objects."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Timer
from typing import Any

import pytest

from tests.support.servers.event_loop import in_event_loop
from valetkey import (
    BrokerUnreachable,
    Client,
    Code,
    Grant,
    NoAnswer,
    NotStored,
    Refusal,
    Refused,
    new_id,
)
from valetkey.testing import AsyncFakeClient, FakeClient, Policy, Quota
from valetkey.testing.fake_clients import AsyncFakeTransport, FakeControls
from valetkey.testing.fake_service import FakeService

MEBIBYTE = 1024**2
QUOTA = Quota(metric="grants", window="day", limit=3)


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


def test_settings_of_the_machine_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER_URL", "RESULT_URL", "TENANT", "KEY", "KEY_FILE"):
        monkeypatch.setenv(f"VALETKEY_{name}", "?")
    with FakeClient("umbrella", "nightly") as client:
        assert client.download("reports", "a.pdf").result().key == "a.pdf"
    assert client.requests[0].requested_by == "nightly"


def test_the_script_has_no_name_of_the_client() -> None:
    names = {name for name in vars(FakeControls) if not name.startswith("_")}
    assert names.isdisjoint(dir(Client))


def test_requests_are_recorded_with_their_items_and_options(client: FakeClient) -> None:
    keys = [f"k/{n}" for n in range(5)]
    list(client.download_many("reports", keys, chunk_size=2, recipient="ann", expires_in=60))
    handle = client.put("inbox", "a", size=3, reason="case 7", metadata={"a": "b"})
    handle.result()
    client.cancel(handle, "over")
    first, second, third = client.requests
    assert (first.ask, first.kind, first.bucket, first.keys) == (
        "grants",
        "download",
        "reports",
        keys,
    )
    assert (first.recipient, first.options) == ("ann", {"expires_in": 60})
    assert (second.batch_id, second.reason) == (handle.id, "case 7")
    assert second.items == [{"key": "a", "size": 3}]
    assert second.options == {"expires_in": 3600, "max_size": 3, "metadata": {"a": "b"}}
    assert (third.ask, third.batch_id, third.reason) == ("cancel", handle.id, "over")


def test_a_repeated_batch_is_a_request_with_items_of_its_own(client: FakeClient) -> None:
    id_, keys = new_id(), ["a", "b", "c"]
    for _ in range(2):
        list(client.download_many("reports", keys, chunk_size=1, batch_id=id_))
    assert [request.keys for request in client.requests] == [keys, keys]


def test_a_batch_that_is_continued_is_recorded_from_its_first_chunk(client: FakeClient) -> None:
    options: Any = {"chunk_size": 1, "batch_id": new_id(), "total": 3, "first_chunk": 1}
    assert len(list(client.download_many("reports", ["b", "c"], **options))) == 2
    (request,) = client.requests
    assert request.keys == ["b", "c"]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (lambda client: client.refuse(b"a"), "key must be a str or None, not a bytes"),
        (lambda client: client.advance(-1), "seconds must be a finite number, and not negative"),
        (lambda client: client.advance(timedelta(1)), "pass its total_seconds"),
        (lambda client: client.store("a", size="5"), "size must be an int or None, not a str"),
        (lambda client: client.store("a", size=-5), "size must be a finite number, and not neg"),
        (lambda client: client.store("a", content_type=5), "content_type must be a str or None"),
        (lambda client: client.expire(new_id()), "was not received: wait for it first"),
        (lambda client: client.expire(5), "subject must be a Grant"),
        (lambda client: client.set_policy({"b": {}}), "each value in policy must be a Policy"),
        (
            lambda client: type(client)(policy=None),
            "policy must be a Policy or a Mapping",
        ),
        (lambda client: type(client)(quotas=QUOTA), "quotas must be a list, not a Quota"),
        (lambda client: type(client)(quotas=[{}]), r"quotas\[0\] must be a Quota, not a dict"),
        (lambda _: FakeClient(storage_url="localhost:9000"), "must be like http://127.0.0.1:9000"),
        (lambda client: FakeClient(peer=client, quotas=[QUOTA]), "are those of the peer"),
        (lambda client: type(client)(peer=5), "peer must be a FakeControls or None, not an int"),
    ],
)
def test_a_wrong_use_of_the_script_is_named(
    client: FakeClient, script: Callable[[Any], None], error: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        script(client)


def test_a_key_is_refused_until_it_is_allowed(client: FakeClient) -> None:
    client.refuse("a.pdf", code="key_reserved")
    refused, granted = client.download_many("reports", ["a.pdf", "b.pdf"])
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.field) == (Code.KEY_RESERVED, "items[0].key")
    assert isinstance(granted, Grant)
    client.allow("a.pdf")
    assert client.download("reports", "a.pdf").result().key == "a.pdf"


def test_every_request_is_refused_with_a_quota_if_the_code_has_one(client: FakeClient) -> None:
    client.refuse(code="quota_exceeded")
    with pytest.raises(Refused) as caught:
        client.upload("inbox", "a", max_size=1).result()
    assert caught.value.refusal.quota is not None
    assert client.explain().download("reports", "a").decision == "refuse"


def test_a_code_that_the_service_does_not_have_is_an_error(client: FakeClient) -> None:
    with pytest.raises(ValueError, match="'key_not_allowed' is not a valid Code"):
        client.refuse("a.pdf", code="key_not_allowed")


def test_a_policy_can_be_replaced(client: FakeClient) -> None:
    client.set_policy({"inbox": Policy(kinds=("upload",), max_batch=1)})
    codes = [
        refusal.code
        for refusal in (
            *client.download_many("inbox", ["a"]),
            *client.upload_many("inbox", ["a", "b"], max_size=1),
            *client.upload_many("other", ["a"], max_size=1),
        )
        if isinstance(refusal, Refusal)
    ]
    assert codes == ["kind_not_allowed", "batch_too_large", "batch_too_large", "bucket_not_allowed"]


def test_bytes_and_live_grants_count_in_their_quotas() -> None:
    quotas = [
        Quota(metric="upload_bytes", window="month", limit=100),
        Quota(metric="grants", window="live", limit=2),
        Quota(metric="download_grants", window="hour", limit=9),
        Quota(metric="stored_bytes", window="live", limit=100),
    ]
    client = FakeClient(quotas=quotas)
    client.upload("inbox", "a", max_size=60, expires_in=60).result()
    client.put("inbox", "b", size=40, expires_in=60).result()
    assert [quota.used for quota in client.usage()] == [100, 2, 0, 100]
    client.advance(61)
    client.download("reports", "c").result()
    assert [quota.used for quota in client.usage()] == [100, 1, 1, 0]
    with pytest.raises(Refused, match=r"upload_bytes\.month has 0 left"):
        client.put("inbox", "b", size=1).result()


def test_a_stalled_service_answers_nobody_in_the_time_to_wait(client: FakeClient) -> None:
    client.stall()
    handle = client.download("reports", "a.pdf")
    with pytest.raises(NoAnswer, match="within"):
        handle.result(timeout=0.05)
    client.resume()
    assert handle.result().key == "a.pdf"
    assert [request.batch_id for request in client.requests] == [handle.id, handle.id]


def test_a_message_that_is_sent_again_is_recorded_once(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 0.01)
    sent: list[str] = []
    receive = client._service.receive

    def record(task_id: str, body: dict[str, Any], deliver: Any) -> None:
        sent.append(task_id)
        receive(task_id, body, deliver)

    monkeypatch.setattr(client._service, "receive", record)
    client.stall()
    with pytest.raises(NoAnswer):
        client.download("reports", "a.pdf").result(timeout=0.2)
    assert len(sent) > len(client.requests) == 1


def test_the_chunks_of_a_reopened_batch_are_no_requests(client: FakeClient) -> None:
    batch = client.download_many("reports", ["a", "b", "c"], chunk_size=1)
    assert list(client.batch(batch.id)) == list(batch)
    assert [request.ask for request in client.requests] == ["grants", "batch"]


@in_event_loop
async def test_another_thread_wakes_the_loop() -> None:
    service = FakeService("https://storage.invalid")
    service.policies, service.is_stalled = {None: Policy()}, True
    transport = AsyncFakeTransport(service)
    await transport.send("task", {"v": 1, "ask": "service", "tenant": "acme"}, "valetkey")
    timer = Timer(0.05, service.resume)
    timer.start()
    async with asyncio.timeout(20):
        ((task_id, _),) = await transport.listen(None)
    assert task_id == "task"
    timer.join()


def test_another_thread_lets_a_stalled_service_resume(client: FakeClient) -> None:
    client.stall()
    handle = client.download("reports", "a.pdf")
    timer = Timer(0.05, client.resume)
    timer.start()
    assert handle.result(timeout=20).key == "a.pdf"
    timer.join()
    assert len(client.requests) == 1


@in_event_loop
async def test_a_coroutine_waits_while_the_service_is_stalled() -> None:
    async with AsyncFakeClient() as client:
        client.stall()
        handles = [client.download("reports", f"{n}") for n in range(5)]
        waiting = [asyncio.ensure_future(handle.result(timeout=20)) for handle in handles]
        with pytest.raises(NoAnswer):
            await client.flush(timeout=0.05)
        client.resume()
        assert [(await each).key for each in waiting] == ["0", "1", "2", "3", "4"]
    assert [request.keys for request in client.requests] == [[f"{n}"] for n in range(5)]


@in_event_loop
async def test_the_keys_of_an_async_batch_may_come_late() -> None:
    async def keys() -> object:
        for number in range(5):
            await asyncio.sleep(0)
            yield f"{number}"

    async with AsyncFakeClient() as client:
        batch = client.download_many("reports", keys(), total=5, chunk_size=2)  # type: ignore[arg-type]
        assert [each.key async for each in batch] == ["0", "1", "2", "3", "4"]


def test_a_broker_can_be_lost(client: FakeClient) -> None:
    client.lose_broker()
    with pytest.raises(BrokerUnreachable):
        client.download("reports", "a.pdf")
    client.resume()
    assert client.download("reports", "a.pdf").result().key == "a.pdf"


def test_grants_end_when_the_test_says_so(client: FakeClient) -> None:
    first = client.download("reports", "a.pdf")
    second = client.upload("inbox", "b", max_size=1)
    first.result(), second.result()
    client.expire(first)
    (expired,) = client.with_options(min_left=0).batch(first.id)
    (fresh,) = client.batch(first.id)
    assert isinstance(expired, Grant)
    assert isinstance(fresh, Grant)
    assert expired.expires_at <= datetime.now(UTC) < fresh.expires_at
    assert expired.id != fresh.id
    assert (client.status(first).state, client.status(second).state) == ("unknown", "open")
    client.expire()
    assert client.status(second).state == "unused"


def test_a_link_that_has_ended_meanwhile_is_issued_again_on_the_second_night(
    client: FakeClient,
) -> None:
    first = client.download("reports", "a.pdf", expires_in=60).result()
    client.advance(86_400)
    (second,) = client.batch(first)
    assert isinstance(second, Grant)
    assert second.id != first.id
    assert second.seconds_left > 0
    assert [request.ask for request in client.requests] == ["grants", "batch", "reissue"]


def test_an_object_is_stored_before_or_after_its_grant(client: FakeClient) -> None:
    client.store("early", size=4)
    early = client.upload("inbox", "early", max_size=9)
    stored = early.stored()
    assert (stored.key, stored.size, stored.grant) == ("early", 4, early.result().id)
    late = client.put("inbox", "late", size=7)
    late.result()
    with pytest.raises(NotStored) as caught:
        late.stored(timeout=0)
    assert caught.value.use.state == "open"
    client.store("late", content_type="image/png")
    assert (late.stored().size, late.stored().content_type) == (7, "image/png")


def test_every_upload_is_stored(client: FakeClient) -> None:
    client.store()
    sizes = {"a": client.upload("inbox", "a", max_size=9), "b": client.put("inbox", "b", size=3)}
    assert {key: handle.stored().size for key, handle in sizes.items()} == {"a": 9, "b": 3}
    assert client.status(client.download("reports", "a").result()).state == "open"


@pytest.mark.parametrize(
    ("size", "seconds", "state"), [(8, 0, "mismatched"), (7, 3_601, "late"), (7, 0, "used")]
)
def test_a_stored_object_is_compared_with_its_grant(
    client: FakeClient, size: int, seconds: int, state: str
) -> None:
    handle = client.put("inbox", "a", size=7)
    handle.result()
    client.advance(seconds)
    client.store("a", size=size)
    assert client.status(handle).state == state


def test_a_later_grant_overwrites_the_object_of_an_earlier_one(client: FakeClient) -> None:
    handles = []
    for _ in range(2):
        handles.append(client.put("inbox", "a", size=7))
        handles[-1].result()
        client.store("a")
    assert [client.status(handle).state for handle in handles] == ["overwritten", "used"]


def test_parts_belong_to_an_open_upload(client: FakeClient) -> None:
    upload = client.multipart("inbox", "film", size=40 * MEBIBYTE, expires_in=600)
    grant = upload.result()
    assert grant.multipart is not None
    assert (grant.multipart.part_size, grant.multipart.part_count) == (16 * MEBIBYTE, 3)
    parts = [part for part in upload.parts() if isinstance(part, Grant)]
    assert [part.headers["content-length"] for part in parts] == ["16777216", "16777216", "8388608"]
    assert {(part.expires_at, part.limited_by) for part in parts} == {
        (grant.expires_at, "provider")
    }
    assert all(grant.multipart.upload_id in part.url for part in parts)
    client.advance(601)
    assert [each.code for each in upload.parts() if isinstance(each, Refusal)] == [
        "upload_unknown"
    ] * 3


def test_a_manifest_is_written_when_the_batch_is_decided(client: FakeClient) -> None:
    client.refuse("b")
    batch = client.download_many("reports", ["a", "b", "c"], manifest="m.gz")
    assert list(batch) == []
    manifest = batch.manifest()
    assert (manifest.key, manifest.issued, manifest.refused) == ("m.gz", 2, 1)
    assert manifest.bytes > 0
    assert manifest.grant.key == "m.gz"


def test_a_batch_closes_after_a_day(client: FakeClient) -> None:
    keys = iter([f"{n}" for n in range(40)])
    batch = client.download_many("reports", keys, total=40, chunk_size=1)
    assert isinstance(next(iter(batch)), Grant)
    client.advance(86_400)
    last = list(batch)[-1]
    assert isinstance(last, Refusal)
    assert last.code is Code.BATCH_CLOSED


def test_two_clients_share_one_service() -> None:
    first = FakeClient()
    handle = first.download("reports", "a.pdf")
    handle.result()
    second = FakeClient(requested_by="other", peer=first)
    assert [each.key for each in second.batch(handle.id)] == ["a.pdf"]
    assert second.requests is first.requests


def test_grants_lead_to_a_server_of_the_test() -> None:
    client = FakeClient(storage_url="http://127.0.0.1:8333")
    assert (
        client.download("reports", "a").result().url.startswith("http://127.0.0.1:8333/reports/a?")
    )
    assert client.upload("inbox", "a", max_size=1).result().url == "http://127.0.0.1:8333/inbox"
