"""The options of a client and of its methods, and what handles tell of themselves."""

import asyncio
import time
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.support.fakes.fake_service import running_fake_service
from tests.support.servers.event_loop import in_event_loop
from valetkey import AsyncClient, Client, Grant, NoAnswer, Refusal, Refused, __version__, new_id
from valetkey.wire import RELEASE

TWIN = "0199a000-0000-7000-8000-000000000001"
KEYS = [f"acme/{number}" for number in range(30)]


def test_the_client_has_a_timeout_for_all_its_methods(broker: str) -> None:
    client = Client(broker, tenant="acme", timeout=0.2, exit_timeout=None)
    with running_fake_service(broker, lambda *_: "lose"):
        for call in (client.usage, client.download("demo", "a").result):
            with pytest.raises(NoAnswer, match=r"within 0\.2 s"):
                call()
    client.close()


def test_a_wait_begins_again_as_often_as_the_client_retries(broker: str) -> None:
    end = time.monotonic() + 1.2

    def lose_at_first(_message: dict[str, Any], _arrival: int) -> Any:
        return "answer" if time.monotonic() > end else "lose"

    with (
        running_fake_service(broker, lose_at_first),
        Client(broker, tenant="acme", timeout=1, retries=5) as client,
    ):
        assert client.download("demo", "a").result().key == "a"


def test_no_wait_begins_again_after_the_deadline(broker: str) -> None:
    client = Client(broker, tenant="acme", timeout=30, retries=1_000_000, exit_timeout=None)
    with running_fake_service(broker, lambda *_: "lose"):
        handle = client.download("demo", "a", deadline=datetime.now(UTC) + timedelta(seconds=0.5))
        with pytest.raises(NoAnswer):
            handle.result()
    client.close()


def test_a_client_with_other_options_uses_the_same_connections(keyed: Client) -> None:
    other = keyed.with_options(requested_by="night", timeout=1)
    assert other._dispatcher is keyed._dispatcher
    assert (other._config.requested_by, keyed._config.requested_by) == ("night", "test")


def test_each_method_names_its_requester(client: Client, broker: str) -> None:
    with running_fake_service(broker) as service:
        handles = [
            client.download("demo", "a", requested_by="ann"),
            client.download_many("demo", KEYS, requested_by="ann"),
        ]
        client.flush(10)
        assert len(handles) == len(service.received)
        assert {message["requested_by"] for _, message in service.received} == {"ann"}


def test_a_single_request_can_be_repeated_under_its_batch_id(keyed: Client) -> None:
    batch_id = new_id()
    for _ in range(2):
        handle = keyed.put("demo", "acme/a", size=1, batch_id=batch_id)
        assert handle.result().id == f"{batch_id}.0"


def test_a_request_under_a_batch_id_that_is_under_way_is_refused(keyed: Client) -> None:
    first, twin = (keyed.download("demo", "acme/a", batch_id=TWIN) for _ in range(2))
    with pytest.raises(Refused, match=r"batch_conflict: batch: .* wait for its handle first"):
        twin.result()
    assert first.result().id == f"{TWIN}.0"


def test_ids_may_be_uuids_handles_or_grants(keyed: Client) -> None:
    handle = keyed.download_many("demo", KEYS, batch_id=UUID(new_id()))
    grant = next(handle.results())
    assert isinstance(grant, Grant)
    for batch in (UUID(handle.id), handle.id, handle, grant, grant.id):
        assert keyed.batch(batch).id == handle.id
        assert keyed.status(batch).batch == handle.id
        assert keyed.cancel(batch).batch == handle.id


def test_an_option_of_batches_is_refused_for_a_single_request(client: Client) -> None:
    with pytest.raises(TypeError, match="download has no option 'total'"):
        client.download("demo", "a", total=1)  # type: ignore[call-arg]


def test_nothing_of_a_batch_with_a_wrong_key_is_sent(client: Client, broker: str) -> None:
    with running_fake_service(broker) as service:
        with pytest.raises(TypeError, match=r"keys\[30\] must be a str, .*, not None"):
            client.download_many("demo", [*KEYS, None], chunk_size=1)  # type: ignore[list-item]
        client.flush(10)
        assert service.received == []


def test_progress_counts_the_items_of_each_chunk(keyed: Client) -> None:
    counts: list[tuple[int, int]] = []
    batch = keyed.download_many(
        "demo", KEYS, chunk_size=10, progress=lambda *count: counts.append(count)
    )
    assert len(list(batch)) == len(KEYS)
    assert counts[-1] == (30, 30)
    assert len(counts) == 3


def test_iterating_a_batch_again_yields_the_same(keyed: Client) -> None:
    batch = keyed.download_many("demo", KEYS)
    partial = [result for result, _ in zip(batch, range(3), strict=False)]
    results = list(batch)
    assert results[:3] == partial
    assert list(batch) == results
    assert len(batch) == len(results)


def test_a_batch_that_is_too_large_to_be_kept_is_read_once(
    keyed: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.handles.MAX_KEPT_RESULTS", len(KEYS) - 1)
    batch = keyed.download_many("demo", KEYS)
    assert len(list(batch)) == len(KEYS)
    with pytest.raises(RuntimeError, match="more than 29 items are not kept"):
        next(iter(batch))


def test_handles_show_their_id_state_and_counts(keyed: Client) -> None:
    batch = keyed.download_many("demo", [*KEYS[:2], "elsewhere/a"])
    handle = keyed.download("demo", "acme/a")
    assert f"{batch!r} {handle!r}" == (
        f"<BatchHandle {batch.id} undecided: 0 issued, 0 refused of 3> "
        f"<GrantHandle {handle.id} undecided>"
    )
    keyed.flush(10)
    assert f"{batch!r} {handle!r}" == (
        f"<BatchHandle {batch.id} decided: 2 issued, 1 refused of 3> "
        f"<GrantHandle {handle.id} decided>"
    )
    assert batch.refused == 1


def test_leaving_a_client_warns_of_refusals_that_nobody_read(broker: str) -> None:
    refusal = Refusal(code="key_not_allowed", field="items[0].key", message="not allowed")
    outcome = {"chunk": 0, "status": "refused", "refusal": refusal.model_dump(mode="json")}
    client = Client(broker, tenant="acme")
    with running_fake_service(broker, decide=lambda raw: outcome | {"batch": raw["batch"]}):
        client.download("demo", "a")
        client.download_many("demo", KEYS)
        with pytest.warns(RuntimeWarning, match="the refusals of 2 requests; .* not allowed"):
            client.__exit__(None, None, None)


@pytest.mark.parametrize("look", ["result", "refused", "refusal"])
def test_refusals_that_were_looked_at_are_not_warned_of(keyed: Client, look: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        handle = keyed.download("demo", "elsewhere/a")
        keyed.flush(10)
        if look == "result":
            with pytest.raises(Refused, match=r"items\[0\]\.key: "):
                handle.result()
        else:
            getattr(handle.batch, look)
        keyed._warn_of_unread_refusals()
    assert caught == []


@in_event_loop
async def test_a_handle_can_be_given_to_create_task(broker: str) -> None:
    with running_fake_service(broker):
        async with AsyncClient(broker, tenant="acme") as client:
            handle = client.download("demo", "a")
            tasks = [asyncio.create_task(handle) for _ in range(2)]
            assert [grant.key for grant in await asyncio.gather(*tasks)] == ["a", "a"]
            cancelled = asyncio.create_task(client.download("demo", "b"))
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled


@in_event_loop
async def test_tasks_that_iterate_one_batch_each_see_all_of_it(broker: str) -> None:
    with running_fake_service(broker):
        async with AsyncClient(broker, tenant="acme") as client:
            batch = client.download_many("demo", KEYS, chunk_size=10)

            async def read() -> list[str | None]:
                return [result.key async for result in batch]

            for keys in await asyncio.gather(read(), read()):
                assert keys == KEYS


def test_the_package_tells_its_release() -> None:
    assert __version__ == RELEASE
