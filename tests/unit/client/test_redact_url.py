"""A URL that is shown has no part of its password, even if the password is not percent-encoded."""

import pytest

from valetkey.config import redact_url


@pytest.mark.parametrize(
    "url",
    [
        "rediss://u:SE/CRET@h/0",
        "redis://:SE?CRET@h/0",
        "redis://:SE#CRET@h/0",
        "sentinel://:SECRET@a:1;sentinel://:SECRET@b:2",
        "postgresql://h/db?password=SE@CRET",
        "u:SECRET@h",
    ],
)
def test_no_part_of_a_password_is_shown(url: str) -> None:
    shown = redact_url(url)
    assert "SE" not in shown
    assert "CRET" not in shown


def test_host_and_path_are_shown() -> None:
    assert redact_url("postgresql://u:p@ss@h:1/db?x=1") == "postgresql://h:1/db"
