"""The progress bar of an export."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_MIN_ROWS = 100_000


@contextmanager
def row_progress(console: Console, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal if there are many rows, and yield the function that advances it.

    total is the number of rows to go through. done were written by an earlier run.
    """
    text = f"after {done:,} of an earlier run" if done else ""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn(text))
    hidden = total < _MIN_ROWS or not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task("", total=total)
        yield lambda rows: bar.advance(task, rows)
