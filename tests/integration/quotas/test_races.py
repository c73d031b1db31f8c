"""Many at once: whoever comes first decides, and nothing is charged twice."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from models import Grant
from tests.integration.conftest import Declare
from tests.support.builders import services
from tests.support.builders.messages import (
    Clock,
    grant_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from tests.support.quota_model.tables import charged, count_rows
from tests.support.servers.waiting import wait_until
from tests.support.servers.worker_processes import WorkerProcesses, worker_processes
from worker.aws.clients import S3Clients
from worker.core.quotas.cost import Cost
from worker.core.tenants.config import Quota, TenantConfig
from worker.db import usage
from worker.db.engine import autocommit_read, create_database_engine, write_transaction

IssueAll = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]
WORKERS = 4
SIZE = 1_000  # bytes of an upload
# A worker's share of 20,000 items of both kinds: so many batches of a size, the large ones first.
# Whoever comes last has enough of each size to fill what is left once the larger ones do not fit.
SHARE = ((500, 3), (200, 3), (50, 7), (1, 50))


@pytest.fixture
def issue_all(engine: Engine, issuer: InProcessService, clock: Clock) -> Iterator[IssueAll]:
    """Answer messages by several threads at once, each with connections of its own."""
    url = engine.url.render_as_string(hide_password=False)
    engines = [create_database_engine(url) for _ in range(1, WORKERS)]
    issuers = [issuer, *(services.build_service(engine, S3Clients(), clock) for engine in engines)]

    def issue(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(WORKERS) as pool:
            turns = [issuers[turn % WORKERS] for turn in range(len(messages))]
            return list(pool.map(lambda issuer, raw: issuer.issue(raw), turns, messages))

    yield issue
    for other in engines:
        other.dispose()


@pytest.fixture(scope="module")
def processes() -> Iterator[WorkerProcesses]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        with worker_processes(WORKERS) as running:
            yield running


def delivered_twice() -> list[list[dict[str, Any]]]:
    """What each of the workers gets: chunks of one batch go to several, and each chunk to two."""
    given: list[list[dict[str, Any]]] = [[] for _ in range(WORKERS)]
    for size, many in SHARE:
        keys = [f"acme/{n}" for n in range(size)]
        for turn in range(WORKERS * many):
            for whole in (grant_message(keys), upload_message(keys, max_size=SIZE)):
                for part in split_chunks(whole, 100):
                    for worker in (turn, turn + 1):
                        given[(worker + part["chunk"]) % WORKERS].append(part)
    return given


def test_a_demand_of_three_times_every_quota_is_granted_to_each_limit_exactly(
    engine: Engine, declare: Declare, processes: WorkerProcesses
) -> None:
    quotas = (
        Quota("grants", "hour", 6_666),
        Quota("grants", "live", 6_666),
        Quota("download_grants", "day", 3_333),
        Quota("upload_bytes", "day", 3_333 * SIZE),
    )
    declare(tenant_config(*quotas))
    url = engine.url.render_as_string(hide_password=False)
    answers = processes.answer(url, delivered_twice())
    once = set(answers)
    assert len(answers) == 2 * len(once)  # what comes twice is answered alike
    decisions = {(one.batch, one.refusal) for one in once}
    assert len(decisions) == len({one.batch for one in once})  # all of a batch, or nothing
    assert {refusal for _, refusal in decisions} == {None, "quota_exceeded"}
    assert sum(one.granted for one in once) == 6_666
    assert [charged(engine, quota.window, quota.metric) for quota in quotas] == [
        quota.limit for quota in quotas
    ]
    assert count_rows(engine, Grant) == 20_000


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_who_charges_waits_for_who_did_before_and_sees_it(
    engine: Engine, declare: Declare, issuer: InProcessService, clock: Clock
) -> None:
    declare(tenant_config(Quota("grants", "live", 100)))
    with ThreadPoolExecutor(1) as pool:
        with write_transaction(engine) as connection:
            usage.charge(connection, "acme", Cost(60, 60), clock())
            said = pool.submit(issuer.issue, grant_message([f"acme/{n}" for n in range(60)]))
            wait_until(lambda: waiting(engine) or said.done())
        quota = said.result()["refusal"]["quota"]
    assert (quota["used"], quota["asked"]) == (60, 60)
    assert charged(engine, "live") == 60


def waiting(engine: Engine) -> int:
    """How many wait for a transaction of somebody else to end."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with autocommit_read(engine) as connection:
        return int(connection.scalar(query) or 0)


def test_one_message_delivered_to_all_at_once_is_charged_once_and_answered_alike(
    engine: Engine, declare: Declare, issue_all: IssueAll
) -> None:
    declare(tenant_config())
    for _ in range(5):
        outcomes = issue_all([grant_message([f"acme/{n}" for n in range(20)])] * WORKERS)
        assert all(outcome["items"] == outcomes[0]["items"] for outcome in outcomes)
        assert outcomes[0]["status"] == "issued"
    assert charged(engine) == 100
    assert count_rows(engine, Grant) == 100


def test_the_chunks_of_one_batch_may_arrive_at_once_and_in_any_order(
    engine: Engine, declare: Declare, issue_all: IssueAll
) -> None:
    declare(tenant_config(Quota("grants", "hour", 200)))
    whole = grant_message([f"acme/{n}" for n in range(200)])
    outcomes = issue_all(split_chunks(whole, 10)[::-1])
    assert {outcome["status"] for outcome in outcomes} == {"issued"}
    assert charged(engine) == 200


def test_two_tenants_that_use_one_batch_id_at_once_get_each_their_own(
    engine: Engine, declare: Declare, issue_all: IssueAll
) -> None:
    ours = tenant_config().tenants["acme"]
    policy = replace(ours.policies["demo"], prefixes=("globex/",))
    theirs = replace(ours, name="globex", policies={"demo": policy})
    declare(TenantConfig(tenant_config().buckets, {"acme": ours, "globex": theirs}))
    request = grant_message()
    its = request | {"tenant": "globex", "items": [{"key": "globex/a.pdf"}]}
    outcomes = issue_all([request, its] * (WORKERS // 2))
    assert {outcome["items"][0]["key"] for outcome in outcomes} == {"acme/a.pdf", "globex/a.pdf"}
    assert count_rows(engine, Grant) == 2
