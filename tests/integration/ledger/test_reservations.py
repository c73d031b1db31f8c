"""Quota that is reserved for chunks, until they arrive, their batch closes or their grants end.

Of concurrent messages the first one decides, and nothing is charged twice.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from models import Grant, Usage
from tests.support.builders.messages import (
    Clock,
    download_chunks,
    grant_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService, other_processes
from tests.support.crypto.tenants import ACME_KEY, ACME_SPARE_KEY, config_with_keys
from tests.support.crypto.tokens import sign_message
from tests.support.servers.worker_processes import WorkerProcesses, worker_processes
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Window
from worker.base.database_engine import read_transaction, write_transaction
from worker.context import Context
from worker.issue import cleanup
from worker.issue.cleanup import clean_up
from worker.ledger import reservations
from worker.rules import quota_rules
from worker.rules.decisions import ChunkRequest
from worker.rules.tenant_config import Quota

ACME = tenant_config().tenants["acme"]
WINDOWS: tuple[Window, ...] = ("day", "month", "live")


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    service.apply(tenant_config())
    return service


@pytest.fixture
def other_context(service: InProcessService) -> Iterator[Context]:
    """The context of another process that cleans up, with its own connections."""
    with other_processes(service) as (other,):
        yield other.context


@pytest.mark.parametrize("window", ["month", "live"])
def test_usage_reaches_the_ceiling_and_never_exceeds_it_without_a_quota(
    service: InProcessService, clock: Clock, window: Window
) -> None:
    start, ceiling = quota_rules.window_start(window, clock()), 2**62
    costs = {"grants": 0, "download_grants": 0, "upload_bytes": ceiling - 9}
    row = {"tenant": "acme", "window": window, "window_start": start, **costs}
    with write_transaction(service.engine) as connection:
        connection.execute(insert(Usage), row)
    refusal = service.issue(upload_message(max_size=10))["refusal"]
    assert (refusal["code"], refusal["limit"]) == ("quota_exceeded", ceiling)
    assert service.issue(upload_message(max_size=9))["status"] == "issued"
    assert service.charged(window, "upload_bytes") == ceiling


def test_live_grants_are_counted_by_signing_key(service: InProcessService, clock: Clock) -> None:
    service.apply(config_with_keys(ACME_KEY, ACME_SPARE_KEY))
    for key in (ACME_KEY, ACME_KEY, ACME_SPARE_KEY):
        message = grant_message(["acme/a", "acme/b"])  # for five minutes
        service.issue(sign_message(message, key, clock()))
    service.issue(grant_message(["queueing/a"], tenant="queueing"))
    with read_transaction(service.engine) as connection:
        assert reservations.count_live_grants(connection, clock()) == {
            ("acme", "main"): 4,
            ("acme", "spare"): 2,
            ("queueing", None): 1,
        }
        # They are not live any more, although no cleanup ran.
        assert reservations.count_live_grants(connection, clock() + timedelta(minutes=5)) == {}


@pytest.mark.parametrize("max_rows", [7, 1_000])
def test_two_concurrent_cleanups_release_each_row_once(
    service: InProcessService,
    clock: Clock,
    other_context: Context,
    monkeypatch: pytest.MonkeyPatch,
    max_rows: int,
) -> None:
    monkeypatch.setattr(cleanup, "MAX_CLEANUP_ROWS", max_rows)
    for _ in range(10):
        for chunk in download_chunks(4, 1)[:3]:  # the last chunk never arrives
            service.issue(chunk)
        clock.forward(minutes=1)
    clock.forward(days=1)
    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(clean_up, (service.context, other_context)))
    counts.append(clean_up(service.context))
    assert sum(count["released"] for count in counts) == 10 * 4
    assert [service.charged(window) for window in WINDOWS] == [30, 30, 0]
    assert service.reserved() == []


def test_chunks_that_arrive_while_their_batches_expire_are_either_granted_or_refused(
    service: InProcessService, clock: Clock, other_context: Context
) -> None:
    batches = [download_chunks(4, 1) for _ in range(20)]
    for batch in batches:
        service.issue(batch[0])
    clock.forward(hours=23, minutes=59)
    ahead = clock() + timedelta(minutes=1)  # the clock of the process that cleans up
    with ThreadPoolExecutor(2) as pool:
        concurrent_cleanup = pool.submit(clean_up, replace(other_context, now=lambda: ahead))
        codes = [service.refusal_code(chunk) for batch in batches for chunk in batch[1:3]]
        concurrent_cleanup.result()
    assert set(codes) <= {None, "batch_closed"}
    clock.forward(minutes=1)
    clean_up(service.context)
    issued = codes.count(None)
    assert [service.charged("month"), service.charged("live")] == [20 + issued, issued]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_cleanup_does_not_wait_for_a_chunk_that_is_arriving(
    service: InProcessService, clock: Clock, other_context: Context
) -> None:
    first, second = download_chunks(4, 2)[0], download_chunks(4, 2)[0]
    service.issue(first)
    service.issue(second)
    clock.forward(days=1)
    with write_transaction(service.engine) as connection:
        request = ChunkRequest(ChunkMessage.model_validate(first), ACME, None)
        batch_number = 1  # of the first one
        assert reservations.take_from_remaining(connection, batch_number, request)
        # Both chunks' grants, and the remaining items of the other batch.
        assert clean_up(other_context)["released"] == 3


WORKERS = 4
SIZE = 1_000  # bytes of an upload
# Pairs of batch size and number of batches: one worker's share of 4,640 items of both kinds. The
# large batches come first, so that small ones can fill what is left of a quota.
BATCHES_PER_WORKER = ((200, 2), (50, 3), (1, 30))


@pytest.fixture(scope="module")
def processes() -> Iterator[WorkerProcesses]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        with worker_processes(WORKERS) as running:
            yield running


def delivered_twice() -> list[list[dict[str, Any]]]:
    """Return the messages for each worker: every chunk goes to two, and a batch to several."""
    messages: list[list[dict[str, Any]]] = [[] for _ in range(WORKERS)]
    for size, count in BATCHES_PER_WORKER:
        keys = [f"acme/{n}" for n in range(size)]
        for turn in range(WORKERS * count):
            for batch in (grant_message(keys), upload_message(keys, max_size=SIZE)):
                for chunk in split_chunks(batch, 100):
                    for worker in (turn, turn + 1):
                        messages[(worker + chunk["chunk"]) % WORKERS].append(chunk)
    return messages


def test_requests_for_three_times_every_quota_are_granted_exactly_up_to_each_limit(
    service: InProcessService, processes: WorkerProcesses
) -> None:
    quotas = (
        Quota("grants", "hour", 1_560),
        Quota("grants", "live", 1_560),
        Quota("download_grants", "day", 780),
        Quota("upload_bytes", "day", 780 * SIZE),
    )
    service.apply(tenant_config(*quotas))
    results = processes.issue(service.url, delivered_twice())
    distinct = set(results)
    assert len(results) == 2 * len(distinct)  # both deliveries have the same result
    decisions = {(result.batch, result.refusal) for result in distinct}
    assert len(decisions) == len({result.batch for result in distinct})  # one for a whole batch
    assert {refusal for _, refusal in decisions} == {None, "quota_exceeded"}
    assert sum(result.granted for result in distinct) == 1_560
    assert [service.charged(quota.window, quota.metric) for quota in quotas] == [
        quota.limit for quota in quotas
    ]
    assert len(service.rows(Grant)) == 4_640
