"""Runs `make demo` in a terminal of 80 columns."""

import pytest

from tools import demo_picture
from tools.demo_picture import PICTURE, draw


@pytest.fixture(scope="module")
def demo() -> list[str]:
    return demo_picture.run_demo()


@pytest.mark.timeout(120)
def test_the_picture_in_the_readme_is_what_the_demo_prints(demo: list[str]) -> None:
    assert draw(demo) == PICTURE.read_text(encoding="utf-8"), "run `make picture`"


def test_the_picture_loads_nothing_and_contains_no_link() -> None:
    picture = PICTURE.read_text(encoding="utf-8")
    assert "@import" not in picture
    assert "url(http" not in picture
    assert "X-Amz" not in picture


@pytest.mark.timeout(120)
def test_the_demo_says_at_its_end_how_to_go_on(demo: list[str]) -> None:
    assert "Nothing is left running." in "\n".join(demo)
    assert any("python -m worker dev" in line for line in demo)
