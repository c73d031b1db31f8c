from datetime import timedelta

import pytest

from worker.base.clock_watch import clock_problems

RIGHT, LIMIT, HOUR = timedelta(), timedelta(minutes=1), timedelta(hours=1)
LATE = timedelta(minutes=-61)


@pytest.mark.parametrize(
    ("ahead", "codes"),
    [
        ({"the broker": RIGHT, "the database": -LIMIT}, []),
        ({"the broker": HOUR, "the database": HOUR}, ["own_clock"]),
        ({"the broker": HOUR, "the database": RIGHT}, ["server_clock"]),
        ({"the broker": RIGHT, "the database": LATE}, ["server_clock"]),
        ({"the broker": HOUR, "the database": LATE}, ["own_clock"]),
        ({"the broker": HOUR}, ["own_clock"]),
        ({"the broker": LIMIT}, []),
    ],
    ids=[
        *("all agree", "it alone differs", "the broker differs", "the database differs"),
        *("none agree", "no other server confirms it", "a minute"),
    ],
)
def test_a_clock_that_no_server_confirms_is_wrong(
    ahead: dict[str, timedelta], codes: list[str]
) -> None:
    assert list(clock_problems(ahead)) == codes


def test_a_clock_that_differs_is_described() -> None:
    (text,) = clock_problems({"the broker": HOUR, "the database": LATE}).values()
    assert text == (
        "compared with this machine's clock, that of the broker is 3,600 s ahead"
        " and that of the database is 3,660 s behind"
    )
