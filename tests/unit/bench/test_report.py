import json
from itertools import count
from pathlib import Path

import click
import pytest

from bench import signing
from bench.catalog import METRICS
from bench.comparison import Spread, alternate, compare
from bench.metrics import Goal, Measurements, Metric
from bench.report import as_object, as_text, machine_facts, metric_row, read_object

# Names that README, issues and scripts refer to. They must not change.
GOALS = {
    "loop_webhook_ms": ("most", 500),
    "sign_get_vs_boto3": ("least", 40),
    "sign_put_vs_boto3": ("least", 20),
    "sign_get_with_id_vs_boto3": ("least", 55),
    "sign_post_vs_boto3": ("least", 18),
    "sign_get_vs_floor": ("most", 1.3),
    "sign_get_vs_obstore": ("least", 2),
    "batch_10k_vs_boto3_loop_sqlite": ("least", 12),
    "batch_10k_vs_boto3_loop_postgres": ("least", 11),
    "first_result_ms": ("most", 25),
    "first_result_ms_postgres": ("most", 25),
    "single_latency_vs_noop": ("most", 1.6),
    "single_rate_vs_noop": ("least", 0.75),
    "single_latency_vs_noop_postgres": ("most", 1.6),
    "single_rate_vs_noop_postgres": ("least", 0.75),
    "identity_overhead_batch": ("most", 1.15),
    "identity_overhead_single": ("most", 1.15),
    "identity_overhead_batch_postgres": ("most", 1.15),
    "identity_overhead_single_postgres": ("most", 1.15),
    "singles_async_32_vs_noop": ("least", 3),
    "singles_async_256_vs_noop": ("least", 3),
    "singles_async_32_vs_noop_postgres": ("least", 3),
    "singles_async_256_vs_noop_postgres": ("least", 3),
    "single_latency_during_bulk": ("most", 3),
    "batch_growth_sqlite": ("least", 0.9),
    "batch_growth_postgres": ("least", 0.9),
    "worker_rss_mb": ("most", 110),
    "producer_rss_mb": ("most", 200),
    "stream_1m_producer_rss_mb": ("most", 200),
    "stream_1m_worker_rss_mb": ("most", 150),
    "csv_links_vs_boto3": ("least", 6),
    "csv_links_vs_boto3_postgres": ("least", 6),
    **{
        f"scale_{n}_{name}_{database}": ("least", 0.85)
        for n in (2, 4)
        for name in ("efficiency", "rate_efficiency")
        for database in ("sqlite", "postgres")
    },
    "events_per_minute_sqlite": ("least", 100_000),
    "events_per_minute_postgres": ("least", 100_000),
    "log_lines_per_second_sqlite": ("least", 16_667),
    "log_lines_per_second_postgres": ("least", 16_667),
    "log_import_rss_mb": ("most", 150),
    "valetkey_help_vs_python": ("most", 6),
    "audit_list_vs_python": ("most", 12),
}
# Each is measured on both databases, whose name follows.
AUDIT_GOALS = {
    "audit_count_day_p95_ms": ("most", 2000),
    "audit_export_csv_rate": ("least", 200_000),
    "audit_export_jsonl_rate": ("least", 200_000),
    "audit_export_parquet_rate": ("least", 200_000),
    "audit_issuing_beside_rows": ("least", 0.9),
    "audit_issuing_vs_baseline": ("least", 0.93),
    "audit_list_absent_key_p95_ms": ("most", 20),
    "audit_list_batch_p95_ms": ("most", 20),
    "audit_list_decision_p95_ms": ("most", 20),
    "audit_list_key_p95_ms": ("most", 20),
    "audit_list_tenant_time_p95_ms": ("most", 20),
    "audit_list_batch_command_p95_ms": ("most", 400),
    "audit_list_decision_command_p95_ms": ("most", 400),
    "audit_list_key_command_p95_ms": ("most", 400),
    "audit_list_tenant_time_command_p95_ms": ("most", 400),
    "audit_verify_rate": ("least", 300_000),
    "audit_whose_command_p95_ms": ("most", 400),
    "audit_whose_p95_ms": ("most", 5),
}


def test_the_goals_are_those_that_were_set() -> None:
    goals = {name: metric.goal for name, metric in METRICS.items() if metric.goal}

    databases = ("sqlite", "postgresql")
    audit = {f"{name}_{db}": goal for name, goal in AUDIT_GOALS.items() for db in databases}
    found = {name: (goal.bound, goal.value) for name, goal in goals.items()}
    assert found == GOALS | audit


def test_both_sides_are_measured_alternate() -> None:
    clock = count()

    assert alternate(lambda: next(clock), lambda: next(clock), rounds=3) == [(0, 1), (2, 3), (4, 5)]


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_not_that_of_the_medians() -> None:
    slowed_once = [(1.0, 10.0), (4.0, 20.0), (2.0, 12.0)]

    assert compare(slowed_once) == (2.0, 12.0, 6.0)
    assert compare([(1.0, 10.0), (2.0, 30.0), (3.0, 12.0)]).ratio == 10.0


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (Goal("least", 8), 8.0, True),
        (Goal("least", 8), 7.9, False),
        (Goal("most", 25), 25.0, True),
        (Goal("most", 25), 25.1, False),
    ],
)
def test_a_goal_is_met_at_its_bound_and_missed_beyond(
    goal: Goal, value: float, *, met: bool
) -> None:
    assert goal.is_met_by(value) is met


def test_signing_measures_every_figure_of_its_own_and_no_other() -> None:
    measured = signing.measure(signing.KEYS[:2], rounds=1)

    assert set(measured) == {name for name in METRICS if name.startswith("sign_")}
    assert all(value is None or value > 0 for value in measured.values())


def test_the_object_has_every_figure_by_name_and_the_machine_facts() -> None:
    measured = {"sign_get_vs_boto3": 45.123456, "sign_get_vs_minio": None}

    restored = json.loads(json.dumps(as_object(measured, machine_facts(0.5))))

    facts = {"cores", "load_before", "load", "platform", "python", "boto3"}
    assert restored.pop("machine").keys() == facts
    assert restored == {"sign_get_vs_boto3": 45.12, "sign_get_vs_minio": None, "spread": {}}


def test_the_object_has_the_smallest_and_the_largest_value_of_the_rounds() -> None:
    measured = as_object({"single_latency_ms": Spread([3.0, 1.0, 2.0])}, {})

    assert measured["single_latency_ms"] == 2.0
    assert measured["spread"] == {"single_latency_ms": [1.0, 3.0]}


def test_the_inverse_of_a_spread_has_its_ends_exchanged() -> None:
    spread = Spread([1.0, 2.0, 4.0]).map(lambda value: 1 / value)

    assert (spread.least, spread, spread.most) == (0.25, 0.5, 1.0)


def test_all_figures_fit_into_80_columns() -> None:
    measured: Measurements = {name: Spread([1_234_567, 9.999, 123.456]) for name in METRICS}
    text = as_text(measured, {}, dict.fromkeys(METRICS, 123.456)).plain

    assert max(len(line) for line in text.splitlines()[1::2]) <= 80
    assert text.count("was 123") == len(METRICS)


def test_a_file_that_is_no_earlier_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    path.write_text("[]")

    with pytest.raises(click.UsageError, match="is not what --json prints"):
        read_object(path)


def test_who_is_not_installed_is_neither_met_nor_missed() -> None:
    metric = Metric("sign_get_vs_obstore", "obstore", "x", Goal("least", 2))

    assert metric_row(metric, None) == ("not installed", "", "≥ 2x", "")


def test_the_text_tells_what_is_met_from_what_is_missed() -> None:
    text = as_text({"first_result_ms": 21.2, "single_rate_vs_noop": 0.42}, {}).plain

    _, met, _, missed, *_ = text.splitlines()
    assert met.split() == ["21.2", "ms", "≤", "25", "ms", "met"]
    assert missed.split() == ["0.42x", "≥", "0.75x", "missed"]
