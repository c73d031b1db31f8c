import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from valetkey.cli.progress_bar import with_progress_bar
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS
from valetkey.wire.refusals import Code, Refusal

REFUSAL = Refusal(code=Code.KEY_EMPTY, field="key", message="empty")
MANY = DEFAULT_CHUNK_ITEMS + 400


@dataclass
class Counted:
    total: int
    refused: int = 0


def shown(total: int, done: int = 0, *, terminal: bool = True, visible: bool = True) -> str:
    screen = io.StringIO()
    errors = Console(file=screen, force_terminal=terminal, width=100, color_system=None)
    counted = Counted(total)
    answers = iter([REFUSAL] * (total - done))
    for _ in with_progress_bar(answers, counted, errors, done, visible=visible):
        counted.refused += 1
    return screen.getvalue()


def test_a_terminal_is_shown_how_many_how_fast_how_long_still_and_how_many_are_refused() -> None:
    last = shown(MANY).removesuffix("\n\x1b[?25h").rpartition("\r")[2]
    assert f"{MANY}/{MANY}" in last
    assert "/s " in last
    assert "0:00:00" in last
    assert last.rstrip().endswith("1,000 refused")


def test_what_was_done_before_counts() -> None:
    assert f"{MANY}/{MANY}" in shown(MANY, done=MANY - 100)


@pytest.mark.parametrize(
    ("total", "terminal", "visible"),
    [(DEFAULT_CHUNK_ITEMS, True, True), (MANY, False, True), (MANY, True, False)],
)
def test_few_answers_or_no_terminal_have_no_bar(
    *, total: int, terminal: bool, visible: bool
) -> None:
    assert shown(total, terminal=terminal, visible=visible).strip() == ""
