"""A problem that does not change is logged once."""

import pytest
from structlog.testing import capture_logs

from worker.jobs.problem_log import ProblemLog


@pytest.fixture
def problems() -> ProblemLog:
    return ProblemLog()


def logged(problems: ProblemLog, *texts: str | None) -> list[str]:
    """Return the problems that are logged when these are noted one after the other."""
    with capture_logs() as logs:
        for text in texts:
            problems.note("left", "a", text, storage="a")
    return [each["problem"] for each in logs]


def test_a_problem_that_stays_is_logged_once(problems: ProblemLog) -> None:
    assert logged(problems, "a", "a", "a") == ["a"]


def test_a_problem_that_changes_is_logged_again(problems: ProblemLog) -> None:
    assert logged(problems, "a", "b", "a") == ["a", "b", "a"]


def test_a_problem_that_ended_is_logged_again_when_it_returns(problems: ProblemLog) -> None:
    assert logged(problems, "a", None, "a") == ["a", "a"]


def test_the_problem_of_another_subject_is_logged_too(problems: ProblemLog) -> None:
    assert logged(problems, "a") == ["a"]
    with capture_logs() as logs:
        problems.note("left", "b", "a", storage="b")
    assert [each["storage"] for each in logs] == ["b"]
