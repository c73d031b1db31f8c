"""Many at once: whoever comes first decides, and nothing is charged twice."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Grant, Usage
from tests import issuing
from tests.integration.conftest import Declare
from tests.issuing import Answering
from tests.requests import Clock, declared, message
from worker.adapters.database import connect, reading
from worker.adapters.s3 import S3
from worker.core.tenancy import Quota

IssueAll = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]
WORKERS = 4


@pytest.fixture
def issue_all(engine: Engine, issuer: Answering, clock: Clock) -> Iterator[IssueAll]:
    """Answer messages by several workers at once, each with connections of its own."""
    url = engine.url.render_as_string(hide_password=False)
    engines = [connect(url) for _ in range(1, WORKERS)]
    issuers = [issuer, *(issuing.issuer(engine, S3(), clock) for engine in engines)]

    def issue(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(WORKERS) as pool:
            turns = [issuers[turn % WORKERS] for turn in range(len(messages))]
            return list(pool.map(lambda issuer, raw: issuer.issue(raw), turns, messages))

    yield issue
    for other in engines:
        other.dispose()


def used(engine: Engine) -> int:
    with reading(engine) as connection:
        query = select(Usage.grants).where(Usage.window == "hour")
        return connection.execute(query).scalar() or 0


def test_one_message_delivered_to_all_at_once_is_charged_once_and_answered_alike(
    engine: Engine, declare: Declare, issue_all: IssueAll
) -> None:
    declare(declared())
    for _ in range(5):
        outcomes = issue_all([message([f"acme/{n}" for n in range(20)])] * WORKERS)
        assert all(outcome == outcomes[0] for outcome in outcomes)
        assert outcomes[0]["status"] == "issued"
    assert used(engine) == 100
    with reading(engine) as connection:
        assert len(connection.execute(select(Grant.number)).all()) == 100


def test_a_demand_of_three_times_the_quota_is_granted_to_the_limit_exactly(
    engine: Engine, declare: Declare, issue_all: IssueAll
) -> None:
    declare(declared(Quota("grants", "hour", 100)))
    outcomes = issue_all([message([f"acme/{n}" for n in range(5)]) for _ in range(60)])
    assert sum(outcome["status"] == "issued" for outcome in outcomes) == 20
    assert used(engine) == 100


def test_the_chunks_of_one_batch_may_arrive_at_once_and_in_any_order(
    engine: Engine, declare: Declare, issue_all: IssueAll
) -> None:
    declare(declared(Quota("grants", "hour", 200)))
    whole = message([f"acme/{n}" for n in range(200)], chunk_size=10)
    chunks = [
        whole | {"chunk": n, "items": whole["items"][n * 10 : n * 10 + 10]}
        for n in reversed(range(20))
    ]
    outcomes = issue_all(chunks)
    assert {outcome["status"] for outcome in outcomes} == {"issued"}
    assert used(engine) == 200


def test_two_tenants_that_use_one_batch_id_at_once_get_one_batch(
    declare: Declare, issue_all: IssueAll
) -> None:
    declare(declared())
    request = message()
    statuses = {
        outcome["status"]
        for outcome in issue_all([request, request | {"tenant": "globex"}] * (WORKERS // 2))
    }
    assert statuses in ({"issued", "refused"}, {"refused"})
