import pytest

from worker.base.stages import BOUNDS, SUM, add_sums, observe, stage, take_sums
from worker.doctor.latencies import LatencyFlusher


@pytest.fixture(autouse=True)
def _empty() -> None:
    take_sums()


@pytest.mark.parametrize(("seconds", "place"), [(0.0, 0), (0.001, 0), (0.0011, 1), (9_999, 18)])
def test_a_duration_counts_in_the_first_bucket_that_it_fits(seconds: float, place: int) -> None:
    observe("webhook_delay", "", seconds)
    assert take_sums() == {
        ("webhook_delay", ""): [(place, 1)] + [(SUM, int(seconds * 1e6))] * bool(seconds)
    }
    assert len(BOUNDS) == 18


def test_sums_are_taken_once_and_can_be_put_back() -> None:
    observe("request", "valetkey", 2)
    taken = take_sums()
    assert take_sums() == {}
    observe("request", "valetkey", 2)
    add_sums(taken)
    assert take_sums()["request", "valetkey"] == [(10, 2), (SUM, 4_000_000)]


def fail_while_committing() -> None:
    with stage("database") as current:
        current.switch("commit")
        raise ZeroDivisionError


def test_a_stage_that_fails_or_is_followed_by_another_is_recorded() -> None:
    with pytest.raises(ZeroDivisionError):
        fail_while_committing()
    assert set(take_sums()) == {("stage", "database"), ("stage", "commit")}


def test_a_process_that_recorded_no_durations_stops_without_an_error() -> None:
    LatencyFlusher(list).stop()
