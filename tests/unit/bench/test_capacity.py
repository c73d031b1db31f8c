from dataclasses import replace

import pytest

from bench.capacity.costs import DATABASES, KINDS, Cost, Costs
from bench.capacity.model import (
    FACTORS,
    TODAY,
    Load,
    Need,
    broken,
    needs,
    per_core,
    predicted_per_second,
    workers_for,
)
from bench.capacity.scale_out import Turn, summarise
from bench.capacity.table import capacity_text
from bench.catalog import METRICS

COST = Cost(
    per_second=100,
    worker_cpu_us=4_000,
    reader_cpu_us=1_000,
    redis_cpu_us=500,
    database_cpu_us=2_000,
    producer_cpu_us=2_500,
    write_us=3_000,
    database_bytes=1_000,
    wal_bytes=4_000,
    fsyncs=1,
    message_bytes=2_000,
    result_bytes=1_500,
)
SINGLES = Load(batch_links_a_day=0, batch_hours=1, singles_a_second=10)


def costs(database: str = "sqlite", cost: Cost = COST) -> Costs:
    return Costs(database, dict.fromkeys(KINDS, cost), connections=2)


def amounts(load: Load, database: str = "sqlite") -> dict[str, float]:
    return {need.part: need.amount for need in needs(load, costs(database))}


def test_the_costs_come_back_from_the_measurements_that_they_are_named_in() -> None:
    assert Costs.from_measurements(costs("postgres").named(), "postgres") == costs("postgres")


@pytest.mark.parametrize("database", DATABASES)
def test_every_cost_is_a_figure_of_the_report(database: str) -> None:
    assert costs(database).named().keys() <= METRICS.keys()


@pytest.mark.parametrize(
    ("part", "load", "amount"),
    [
        ("queue reader, cores", SINGLES, 0.01),
        ("Redis, cores", SINGLES, 0.005),
        ("SQLite's writer", SINGLES, 0.03),
        ("commits a second", SINGLES, 10),
        # Results for 15 minutes, and what waits for a minute.
        ("Redis, GB", SINGLES, 10 * (900 * 1_500 + 60 * 2_000) / 1e9),
        # The singles of a day, and the chunks of a night.
        ("disk, GB a day", replace(SINGLES, batch_links_a_day=600_000), 0.865),
        ("audit rows a second", Load(600 * 7_200, 2, 0), 600),
        # Processes are whole, and idle for three tenths of their time.
        ("issuing processes", SINGLES.times(7), 1),
        ("issuing processes", SINGLES.times(7.1), 2),
    ],
)
def test_a_load_needs_as_much_of_a_part_as_its_requests_cost(
    part: str, load: Load, amount: float
) -> None:
    assert amounts(load)[part] == pytest.approx(amount)


def test_only_sqlite_has_one_writer_and_only_postgresql_ends_at_its_connections() -> None:
    sqlite, postgres = (amounts(SINGLES.times(14), database) for database in DATABASES)
    assert "SQLite's writer" not in postgres
    assert "connections" not in sqlite
    assert postgres["connections"] == 4


def test_what_needs_the_largest_share_breaks_first() -> None:
    found = [Need("a", 3, 2), Need("b", 1, 2), Need("c", 9, 2), Need("d", 99)]
    assert [need.part for need in broken(found)] == ["c", "a"]


@pytest.mark.parametrize(
    ("processes", "cores", "changes", "rate"),
    [
        (2, 64, {}, 200),  # twice what one process does
        (64, 1, {}, 100),  # all parts take 10 ms of CPU
        (64, 64, {"reader_cpu_us": 5_000}, 200),
        (64, 64, {"redis_cpu_us": 4_000}, 250),
        (64, 64, {}, 400),  # one producer
    ],
)
def test_the_scarcest_part_limits_the_rate(
    processes: int, cores: int, changes: dict[str, float], rate: float
) -> None:
    cost = replace(COST, **changes)
    assert predicted_per_second(cost, processes, cores, one_writer=False) == pytest.approx(rate)


def test_one_writer_limits_the_rate_of_all_processes() -> None:
    assert predicted_per_second(COST, 64, 64, one_writer=True) == pytest.approx(1e6 / 3_000)


def test_links_in_batches_need_as_many_processes_as_their_requests() -> None:
    # Requests of 600 links: 33.3 a second, of 100 that a process does at full load.
    cost = replace(COST, per_second=10, reader_cpu_us=50_000)
    assert workers_for(20_000, cost, 600, one_writer=False) == (5, 3)


def test_more_links_than_one_writer_takes_need_another_database() -> None:
    cost = replace(COST, write_us=1_000)
    assert workers_for(700, cost, 1, one_writer=True) is not None
    assert workers_for(701, cost, 1, one_writer=True) is None


def test_a_core_of_the_service_is_not_shared_with_the_producer() -> None:
    assert per_core(COST, 600) == pytest.approx(600 * 1e6 / 7_500)


def test_the_table_fits_into_80_columns_and_says_what_to_add_first() -> None:
    writing = replace(COST, write_us=20_000, database_bytes=1, per_second=1_000)
    measured = costs("sqlite", writing).named() | costs("postgres").named()
    text = capacity_text(measured)
    assert max(map(len, text.splitlines())) <= 80
    assert "   10x: SQLite's writer: PostgreSQL\n" in text
    assert "    1x: nothing breaks\n" in text
    assert TODAY.times(FACTORS[-1]).singles_a_second == 10_000


def test_the_efficiency_of_processes_is_that_of_each_round() -> None:
    turns = [{1: Turn(10, 100), 2: Turn(20, 150)}, {1: Turn(30, 100), 2: Turn(30, 180)}]
    found = summarise([*turns, {1: Turn(9, 100), 2: Turn(10, 200)}], cores=4)
    assert found["scale_2_efficiency"] == pytest.approx(0.9)
    assert found["scale_2_rate_efficiency"] == pytest.approx(0.9)


def test_rates_are_compared_only_where_each_process_has_a_core() -> None:
    found = summarise([{1: Turn(10, 100), 2: Turn(20, 150)}], cores=2)
    assert "scale_2_rate_efficiency" not in found
    assert found["scale_2_efficiency"] == 0.5
