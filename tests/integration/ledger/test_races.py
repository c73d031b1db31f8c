"""Concurrent messages: the first one decides, and nothing is charged twice."""

from collections.abc import Iterator
from typing import Any

import pytest

from models import Grant
from tests.support.builders.messages import (
    grant_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from tests.support.servers.worker_processes import WorkerProcesses, worker_processes
from worker.core.tenant_config import Quota

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
