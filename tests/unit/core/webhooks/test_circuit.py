from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from worker.core.webhooks.circuit import CLOSED, FIRST_PAUSE, MAX_PAUSE, THRESHOLD, Circuit, pause

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)


def test_failures_below_the_threshold_do_not_open_a_circuit() -> None:
    circuit = CLOSED.after_failures(THRESHOLD - 1, NOW, is_probe=False)
    assert circuit == Circuit(THRESHOLD - 1, None)
    assert not circuit.is_open(NOW)
    assert not circuit.needs_probe(NOW)


def test_the_fifth_failure_in_a_row_opens_it_for_five_seconds() -> None:
    circuit = Circuit(THRESHOLD - 1, None).after_failures(1, NOW, is_probe=False)
    assert circuit == Circuit(THRESHOLD, NOW + FIRST_PAUSE)
    assert circuit.is_open(NOW + FIRST_PAUSE - timedelta(microseconds=1))
    assert not circuit.is_open(NOW + FIRST_PAUSE)
    assert circuit.needs_probe(NOW + FIRST_PAUSE)


def test_attempts_that_fail_together_do_not_lengthen_the_pause() -> None:
    together = CLOSED.after_failures(64, NOW, is_probe=False)
    assert together == Circuit(THRESHOLD, NOW + FIRST_PAUSE)
    later = NOW + timedelta(seconds=1)
    assert together.after_failures(4, later, is_probe=False) == together


def test_each_failed_probe_lengthens_the_pause_up_to_five_minutes() -> None:
    pauses, circuit = [], Circuit(THRESHOLD - 1, None)
    for _ in range(9):
        circuit = circuit.after_failures(1, NOW, is_probe=True)
        assert circuit.open_until is not None
        pauses.append(int((circuit.open_until - NOW).total_seconds()))
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]


@given(st.integers(THRESHOLD, 10**9))
def test_no_number_of_failures_makes_a_pause_longer_than_five_minutes(failures: int) -> None:
    duration = pause(failures)
    assert duration is not None
    assert FIRST_PAUSE <= duration <= MAX_PAUSE
