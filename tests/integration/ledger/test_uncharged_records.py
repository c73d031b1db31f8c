"""Refusals and unknown cancellations record no more than a ceiling a day, and charge nothing."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle
from secrets import token_hex
from typing import Any

import pytest
from sqlalchemy import text

from models import Batch, Cancellation, Chunk, Delivery, Grant, Leaf, RejectionCount, Usage
from tests.support.builders.messages import (
    Clock,
    batch_id,
    download_chunks,
    grant_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService, other_processes
from tests.support.features import needs
from worker.base.database_engine import read_transaction
from worker.issue.cleanup import clean_up
from worker.ledger import quota_usage
from worker.rules.tenant_config import Quota

CEILING = 20_000  # bytes, instead of 64 MiB
RECORDS = (Batch, Chunk, Grant, Leaf, Cancellation, Delivery, RejectionCount)
MAX_RECORDS = CEILING // 100 + 1_000  # rows and leaves; the last message may exceed the ceiling
MAX_MESSAGES = CEILING // 1_000 + 2
GRANTS = Quota("grants", "day", 100)

Message = Callable[[], dict[str, Any]]


def beyond_quota() -> dict[str, Any]:
    """Return a request for more grants than a day has: it is refused as a whole."""
    return grant_message([f"acme/{n}" for n in range(GRANTS.limit + 1)])


def outside_prefixes(items: int = 200) -> dict[str, Any]:
    """Return a request whose items are refused one by one."""
    return grant_message([f"globex/{n}" for n in range(items)])


def with_much_metadata() -> dict[str, Any]:
    """Return a small request with large terms, which are refused."""
    return upload_message(metadata={f"name-{n}": "é" * 200 for n in range(100)})


def not_allowed() -> dict[str, Any]:
    """Return a request that the tenant's policy refuses as a whole."""
    return upload_message(content_type="text/html")


@pytest.fixture(autouse=True)
def _low_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota_usage, "MAX_UNCHARGED_BYTES", CEILING, raising=False)


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    service.apply(tenant_config(GRANTS))
    return service


def fill(service: InProcessService) -> None:
    """Reach the ceiling: nothing more of the tenant is recorded without a charge."""
    for _ in range(3):
        service.issue(outside_prefixes())


@pytest.fixture
def full(service: InProcessService) -> InProcessService:
    """The service at the ceiling."""
    fill(service)
    return service


def count_records(service: InProcessService) -> int:
    """Count what is recorded: requests, decisions, leaves, deliveries and counts of rejections."""
    return sum(len(service.rows(table)) for table in RECORDS)


def database_size(service: InProcessService) -> int:
    """Return the size of the database in bytes."""
    query = "pg_database_size(current_database())"
    if service.engine.dialect.name == "sqlite":
        query = "page_count * page_size FROM pragma_page_count, pragma_page_size"
    with read_transaction(service.engine) as connection:
        return int(connection.execute(text(f"SELECT {query}")).scalar_one())


def rejected(service: InProcessService) -> dict[tuple[str, str], int]:
    """Return the number of messages that were counted instead of recorded, by tenant and code."""
    columns = RejectionCount.tenant, RejectionCount.code, RejectionCount.count
    return {(tenant, code): count for tenant, code, count in service.rows(*columns)}


@pytest.mark.parametrize(
    "message", [beyond_quota, outside_prefixes, with_much_metadata, not_allowed]
)
def test_refused_messages_record_no_more_than_the_ceiling_and_are_counted(
    service: InProcessService, message: Message
) -> None:
    for _ in range(30):
        service.issue(message())
    recorded, batches = count_records(service), len(service.rows(Batch.batch_number))
    assert recorded < MAX_RECORDS
    assert batches < MAX_MESSAGES
    counted = rejected(service)["acme", "not_recorded"]
    assert counted + batches == 30
    service.issue(message())
    assert count_records(service) == recorded
    assert rejected(service) == {("acme", "not_recorded"): counted + 1}


@pytest.mark.parametrize(
    ("prefix", "items", "is_bundled"),
    [("acme", 200, False), ("globex", 200, False), ("globex", 16, True)],
    ids=["whole", "item by item", "bundled"],
)
def test_the_database_does_not_grow_beyond_the_ceiling(
    full: InProcessService, prefix: str, items: int, *, is_bundled: bool
) -> None:
    before = database_size(full)
    for _ in range(2_000 // items):
        message = grant_message([f"{prefix}/{token_hex(400)}" for _ in range(items)])
        if is_bundled:
            other = grant_message([f"{prefix}/{token_hex(400)}"])
            message = {"v": 1, "ask": "bundle", "tenant": "acme", "messages": [message, other]}
        full.issue(message)
    assert database_size(full) - before < 300_000  # the messages have 1.6 million bytes


def test_later_chunks_of_a_refused_batch_record_no_more_than_the_ceiling(
    service: InProcessService,
) -> None:
    for chunk in download_chunks(2_000, 50):
        assert service.refusal_code(chunk) == "quota_exceeded"
    assert count_records(service) < MAX_RECORDS


@needs("cancel")
def test_cancellations_of_unknown_batches_record_no_more_than_the_ceiling(
    service: InProcessService,
) -> None:
    replies = [service.cancel(batch_id()) for _ in range(30)]
    refused = [reply["refusal"] for reply in replies if reply["status"] == "refused"]
    assert len(service.rows(Cancellation.batch_id)) < MAX_MESSAGES
    assert rejected(service) == {("acme", "not_recorded"): len(refused)}
    quota = refused[-1]["quota"]
    assert (refused[-1]["code"], refused[-1]["limit"]) == ("quota_exceeded", CEILING)
    assert (quota["metric"], quota["window"]) == ("uncharged_bytes", "day")
    assert quota["resets_at"] == "2026-11-25T00:00:00Z"


@needs("cancel")
def test_an_accepted_cancellation_is_kept_and_a_known_batch_is_cancelled_beyond_the_ceiling(
    service: InProcessService,
) -> None:
    cancelled, (first, _) = grant_message(), download_chunks(2, 1)
    service.issue(first)
    assert service.cancel(cancelled["batch"])["status"] == "cancelled"
    fill(service)
    recorded = service.rows(Usage.uncharged_bytes)
    assert service.cancel(cancelled["batch"])["status"] == "cancelled"
    assert service.refusal_code(cancelled) == "batch_closed"
    assert service.cancel(first["batch"])["released"] == 1
    assert service.rows(Usage.uncharged_bytes) == recorded


def test_requests_that_are_charged_are_recorded_beyond_the_ceiling(full: InProcessService) -> None:
    for chunk in download_chunks(4, 2):
        assert all("url" in item for item in full.issue(chunk)["items"])
    assert len(full.rows(Grant.item_number)[-4:]) == 4
    assert full.charged() == 4


def test_as_many_refused_items_as_granted_ones_are_recorded_beyond_the_ceiling(
    full: InProcessService,
) -> None:
    before = len(full.rows(Grant.item_number))
    items = full.issue(grant_message(["acme/a", "globex/a"]))["items"]
    assert ["url" in item for item in items] == [True, False]
    assert len(full.rows(Grant.item_number)) == before + 2


def test_a_grant_among_many_refused_items_is_refused_beyond_the_ceiling_and_charges_nothing(
    full: InProcessService,
) -> None:
    before = count_records(full)
    request = grant_message(["acme/a", "globex/a", "globex/b"])
    outcome = full.issue(request)
    assert (outcome["refusal"]["code"], outcome["items"]) == ("quota_exceeded", [])
    assert full.issue(request)["refusal"] == outcome["refusal"]
    assert (full.charged(), full.reserved(), count_records(full)) == (0, [], before)


@pytest.mark.parametrize("message", [beyond_quota, outside_prefixes, not_allowed])
def test_the_answer_beyond_the_ceiling_is_that_of_a_recorded_refusal(
    service: InProcessService, message: Message
) -> None:
    request = message()
    recorded = service.issue(request)
    fill(service)
    unrecorded = request | {"batch": batch_id()}
    for _ in range(2):
        assert service.issue(unrecorded) == recorded | {"batch": unrecorded["batch"]}
    assert service.issue(request) == recorded  # from its rows
    assert service.charged() == 0


@needs("cancel")
def test_a_later_chunk_that_is_not_recorded_leaves_its_batch_open(
    service: InProcessService,
) -> None:
    request = grant_message(["acme/a", "acme/b", "globex/c", "globex/d"])
    first, second = split_chunks(request, 2)
    service.issue(first)
    fill(service)
    codes = [item["code"] for item in service.issue(second)["items"]]
    assert codes == ["key_outside_prefix"] * 2
    assert service.charged() == 4
    assert service.cancel(request["batch"])["released"] == 2
    assert service.charged() == 2


def test_recording_resumes_on_the_next_day_and_the_count_of_a_day_is_deleted(
    full: InProcessService, clock: Clock
) -> None:
    clock.forward(days=1)
    before = len(full.rows(Batch.batch_number))
    full.issue(outside_prefixes(1))
    assert len(full.rows(Batch.batch_number)) == before + 1
    clock.forward(days=3)
    clean_up(full.context)
    with read_transaction(full.engine) as connection:
        assert not quota_usage.is_beyond_ceiling(connection, "acme", clock())
    assert "records" not in {row.window for row in full.rows(Usage)}


def test_a_neighbours_refusals_are_recorded_beyond_a_tenants_ceiling(
    full: InProcessService,
) -> None:
    config = tenant_config(GRANTS)
    globex = replace(config.tenants["acme"], name="globex", id="globex")
    full.apply(replace(config, tenants={**config.tenants, "globex": globex}))
    before = len(full.rows(Batch.batch_number))
    full.issue(outside_prefixes(1) | {"tenant": "globex"})
    assert len(full.rows(Batch.batch_number)) == before + 1


def test_refused_requests_of_a_bundle_record_no_more_than_the_ceiling_and_the_others_are_granted(
    service: InProcessService,
) -> None:
    granted = 0
    for number in range(20):
        messages = [outside_prefixes(16) for _ in range(8)]
        messages.insert(4, grant_message([f"acme/{number}"]))
        values = {"v": 1, "ask": "bundle", "tenant": "acme", "messages": messages}
        replies = service.issue(values)["replies"]
        granted += sum("url" in reply["items"][0] for reply in replies)
        assert all(item["code"] for reply in replies for item in reply["items"] if "code" in item)
    assert (granted, service.charged()) == (20, 20)
    assert count_records(service) < MAX_RECORDS


def test_concurrent_refusals_keep_the_ceiling_and_charged_requests_beside_them_are_granted(
    service: InProcessService,
) -> None:
    messages: list[dict[str, Any]] = []
    for _ in range(12):
        first, second = download_chunks(4, 2)
        mixed = second | {"items": [{"key": "globex/a"}, {"key": "acme/b"}]}
        messages += [first, outside_prefixes(50), mixed, beyond_quota()]
    with other_processes(service, 4) as processes, ThreadPoolExecutor(4) as pool:
        workers = cycle(processes)
        outcomes = list(pool.map(lambda worker, each: worker.issue(each), workers, messages))
    issued = sum("url" in item for outcome in outcomes for item in outcome["items"])
    assert issued == service.charged() == 36
    assert len(service.rows(Grant.item_number)) - 100 < MAX_RECORDS
    assert rejected(service)["acme", "not_recorded"]
    assert service.is_log_sound()
