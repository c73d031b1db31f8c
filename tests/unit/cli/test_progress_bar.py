import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from valetkey.cli.progress_bar import with_progress_bar
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS
from valetkey.wire.refusals import Code, Refusal

REFUSAL = Refusal(code=Code.KEY_EMPTY, field="key", message="empty")
MANY = DEFAULT_CHUNK_ITEMS + 400


def render_bar(
    total: int, results_done: int = 0, *, terminal: bool = True, visible: bool = True
) -> str:
    screen = io.StringIO()
    errors = Console(file=screen, force_terminal=terminal, width=100, color_system=None)
    counts: Any = SimpleNamespace(total=total, refused=0, service_outage=None)
    results = iter([REFUSAL] * (total - results_done))
    for _ in with_progress_bar(results, counts, errors, results_done, visible=visible):
        counts.refused += 1
    return screen.getvalue()


def test_a_terminal_shows_count_rate_remaining_time_and_refusals() -> None:
    last_state = render_bar(MANY).removesuffix("\n\x1b[?25h").rpartition("\r")[2]
    assert f"{MANY}/{MANY}" in last_state
    assert "/s " in last_state
    assert "0:00:00" in last_state
    assert last_state.rstrip().endswith("1,000 refused")


def test_results_of_an_earlier_run_count() -> None:
    assert f"{MANY}/{MANY}" in render_bar(MANY, results_done=MANY - 100)


@pytest.mark.parametrize(
    ("total", "terminal", "visible"),
    [(DEFAULT_CHUNK_ITEMS, True, True), (MANY, False, True), (MANY, True, False)],
)
def test_few_results_or_no_terminal_show_no_bar(
    *, total: int, terminal: bool, visible: bool
) -> None:
    assert render_bar(total, terminal=terminal, visible=visible).strip() == ""
