import json
from itertools import count
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bench import signing
from bench.__main__ import PARTS, main
from bench.catalog import METRICS
from bench.comparison import Spread, alternate, compare
from bench.metrics import Goal, Measurements, Metric
from bench.report import as_object, as_text, machine_facts, metric_row, read_object


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


def test_help_names_every_part_whole() -> None:
    result = CliRunner().invoke(main, ["--help"], terminal_width=80)
    assert result.exit_code == 0
    words = {word.strip(",.") for word in result.output.split()}
    assert set(PARTS) <= words


@pytest.mark.parametrize("words", [["signng"], ["--links", "0"], ["--compare", "no-such.json"]])
def test_a_wrong_use_measures_nothing(words: list[str]) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert result.output.startswith("Usage: ")
