"""Concurrent messages: the first one decides, and nothing is charged twice."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
from sqlalchemy import Engine, text

from models import Grant
from tests.support.builders.messages import (
    Clock,
    grant_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService, other_processes
from tests.support.servers.waiting import wait_until
from tests.support.servers.worker_processes import WorkerProcesses, worker_processes
from worker.core.quotas.cost import Cost
from worker.core.tenants.config import Quota, TenantConfig
from worker.db import usage
from worker.db.engine import autocommit_read, write_transaction

IssueAll = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]
WORKERS = 4
SIZE = 1_000  # bytes of an upload
# Pairs of batch size and number of batches: one worker's share of 4,640 items of both kinds. The
# large batches come first, so that small ones can fill what is left of a quota.
BATCHES_PER_WORKER = ((200, 2), (50, 3), (1, 30))


@pytest.fixture
def issue_all(service: InProcessService) -> Iterator[IssueAll]:
    """A function that issues messages in several threads, each with its own connections."""
    with other_processes(service, WORKERS - 1) as others, ThreadPoolExecutor(WORKERS) as pool:
        workers = cycle([service, *others])
        yield lambda raws: list(pool.map(lambda worker, raw: worker.issue(raw), workers, raws))


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
    url = service.engine.url.render_as_string(hide_password=False)
    results = processes.issue(url, delivered_twice())
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


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_charge_includes_a_concurrent_one(service: InProcessService, clock: Clock) -> None:
    service.apply(tenant_config(Quota("grants", "live", 100)))
    with ThreadPoolExecutor(1) as pool:
        with write_transaction(service.engine) as connection:
            usage.charge(connection, "acme", Cost(60, 60), clock())
            outcome = pool.submit(service.issue, grant_message([f"acme/{n}" for n in range(60)]))
            wait_until(lambda: count_waiting(service.engine) or outcome.done())
        quota = outcome.result()["refusal"]["quota"]
    assert (quota["used"], quota["asked"]) == (60, 60)
    assert service.charged("live") == 60


def count_waiting(engine: Engine) -> int:
    """Return the number of connections that wait for a lock."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with autocommit_read(engine) as connection:
        return int(connection.scalar(query) or 0)


def test_a_message_delivered_concurrently_is_charged_once_and_has_one_outcome(
    service: InProcessService, issue_all: IssueAll
) -> None:
    service.apply(tenant_config())
    for _ in range(5):
        outcomes = issue_all([grant_message([f"acme/{n}" for n in range(20)])] * WORKERS)
        assert all(outcome["items"] == outcomes[0]["items"] for outcome in outcomes)
        assert outcomes[0]["status"] == "issued"
    assert service.charged() == 100
    assert len(service.rows(Grant)) == 100


def test_two_tenants_that_use_the_same_batch_id_concurrently_get_their_own_grants(
    service: InProcessService, issue_all: IssueAll
) -> None:
    acme = tenant_config().tenants["acme"]
    policy = replace(acme.policies["demo"], prefixes=("globex/",))
    globex = replace(acme, name="globex", policies={"demo": policy})
    service.apply(TenantConfig(tenant_config().buckets, {"acme": acme, "globex": globex}))
    request = grant_message()
    other_request = request | {"tenant": "globex", "items": [{"key": "globex/a.pdf"}]}
    outcomes = issue_all([request, other_request] * (WORKERS // 2))
    assert {outcome["items"][0]["key"] for outcome in outcomes} == {"acme/a.pdf", "globex/a.pdf"}
    assert len(service.rows(Grant)) == 2
