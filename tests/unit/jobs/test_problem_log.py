"""A problem that does not change is logged once."""

import pytest
from structlog.testing import capture_logs

from worker.jobs.problem_log import ProblemLog


@pytest.mark.parametrize(
    ("noted", "logged"),
    [
        pytest.param(["a", "a", "a"], ["a"], id="a problem that stays: once"),
        pytest.param(["a", "b", "a"], ["a", "b", "a"], id="one that changes: again"),
        pytest.param(["a", None, "a"], ["a", "a"], id="one that ended and returns: again"),
    ],
)
def test_a_problem_is_logged_when_it_is_new(noted: list[str | None], logged: list[str]) -> None:
    problems = ProblemLog()
    with capture_logs() as logs:
        for text in noted:
            problems.note("left", "a", text, storage="a")
    assert [each["problem"] for each in logs] == logged


def test_the_problem_of_another_subject_is_logged_too() -> None:
    problems = ProblemLog()
    with capture_logs() as logs:
        for subject in ("a", "b"):
            problems.note("left", subject, "a", storage=subject)
    assert [each["storage"] for each in logs] == ["a", "b"]
