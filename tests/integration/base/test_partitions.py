"""Grants are stored in partitions by month, which exist before they are needed."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from worker import clock as system_clock
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.jobs import ProblemLog
from worker.base.month_partitions import (
    add_months,
    add_partition,
    create_partitions,
    default_months,
    missing_months,
    month_of,
    read_partitions,
)
from worker.issue.cleanup import clean_up
from worker.shared.months import first_moment

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

# The migration takes the month of the system's clock.
MONTH = month_of(system_clock.now())


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.time = system_clock.now().replace(microsecond=0)
    return clock


@pytest.fixture(autouse=True)
def _config(apply_config: ApplyConfig) -> None:
    apply_config(tenant_config())


def rows_by_partition(engine: Engine) -> dict[str, int]:
    query = text("SELECT tableoid::regclass::text, count(*) FROM grants GROUP BY 1")
    with read_transaction(engine) as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


def name_of(month: int) -> str:
    return f"grants_{month // 100}_{month % 100:02}"


def issue_in(service: InProcessService, clock: Clock, month: int, items: int = 2) -> None:
    clock.time = first_moment(month)
    keys = [f"acme/{number}" for number in range(items)]
    assert service.issue(grant_message(keys))["status"] == "issued"


def test_migrate_creates_the_partitions_of_this_month_and_the_next_two(engine: Engine) -> None:
    with read_transaction(engine) as connection:
        partitions = read_partitions(connection)
    ends = [(partition.first, partition.end) for partition in partitions]
    one, two, three = (add_months(MONTH, number) for number in (1, 2, 3))
    assert ends == [(None, one), (one, two), (two, three)]


@pytest.mark.parametrize("items", [1, 2])
def test_grants_are_stored_in_the_partition_of_their_chunks_month(
    service: InProcessService, clock: Clock, items: int
) -> None:
    for number in (0, 1, 2):
        issue_in(service, clock, add_months(MONTH, number), items)
    months = [name_of(add_months(MONTH, number)) for number in (1, 2)]
    assert rows_by_partition(service.engine) == dict.fromkeys(("grants_first", *months), items)


def test_cleanup_creates_partitions_ahead(service: InProcessService, clock: Clock) -> None:
    clock.time = first_moment(add_months(MONTH, 2))
    assert clean_up(service.context)["partitions"] == 2
    assert clean_up(service.context)["partitions"] == 0
    with read_transaction(service.engine) as connection:
        assert missing_months(connection, clock()) == []


def test_rows_without_a_partition_are_kept_and_moved_by_the_cleanup(
    service: InProcessService, clock: Clock
) -> None:
    month = add_months(MONTH, 5)
    issue_in(service, clock, month)
    assert rows_by_partition(service.engine) == {"grants_default": 2}
    with read_transaction(service.engine) as connection:
        assert default_months(connection) == [month]
    clean_up(service.context)
    assert rows_by_partition(service.engine) == {name_of(month): 2}


def test_many_processes_create_a_partition_once(engine: Engine) -> None:
    month = add_months(MONTH, 4)

    def create(_: int) -> bool:
        with write_transaction(engine) as connection:
            return add_partition(connection, month)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(create, range(4))) == [False, False, False, True]


def test_a_partition_that_is_locked_is_created_at_the_next_run(
    service: InProcessService, clock: Clock
) -> None:
    clock.time = first_moment(add_months(MONTH, 1))
    with read_transaction(service.engine) as reader:
        reader.execute(text("SELECT 1 FROM grants"))
        assert create_partitions(service.engine, clock(), ProblemLog()) == 0
        assert service.issue(grant_message())["status"] == "issued"
    assert create_partitions(service.engine, clock(), ProblemLog()) == 1


def test_a_partition_that_stays_locked_is_logged_once(
    service: InProcessService, clock: Clock
) -> None:
    clock.time = first_moment(add_months(MONTH, 1))
    with read_transaction(service.engine) as reader, capture_logs() as logs:
        reader.execute(text("SELECT 1 FROM grants"))
        for _ in range(2):
            clean_up(service.context)
    assert [each["log_level"] for each in logs if each["event"] == "partition_postponed"] == [
        "warning"
    ]


@pytest.mark.parametrize("month", [0, 202600, 202613, 199912, add_months(MONTH, 13)])
def test_no_partition_is_created_for_what_is_no_month(engine: Engine, month: int) -> None:
    with pytest.raises(Exception, match="no month between"), write_transaction(engine) as writer:
        add_partition(writer, month)
