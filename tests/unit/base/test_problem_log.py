"""A problem that does not change is logged once."""

import pytest
from structlog.testing import capture_logs

from worker.base.jobs import ProblemLog


@pytest.mark.parametrize(
    ("subjects", "noted", "logged"),
    [
        pytest.param("aaa", ["x", "x", "x"], ["x"], id="a problem that stays: once"),
        pytest.param("aaa", ["x", "y", "x"], ["x", "y", "x"], id="one that changes: again"),
        pytest.param("aaa", ["x", None, "x"], ["x", "x"], id="one that ended and returns: again"),
        pytest.param("ab", ["x", "x"], ["x", "x"], id="that of another subject: too"),
    ],
)
def test_a_problem_is_logged_when_it_is_new(
    subjects: str, noted: list[str | None], logged: list[str]
) -> None:
    problems = ProblemLog()
    with capture_logs() as logs:
        for subject, text in zip(subjects, noted, strict=True):
            problems.note("left", subject, text, storage="a")
    assert [each["problem"] for each in logs] == logged
