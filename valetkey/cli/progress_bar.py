"""Progress on a terminal: a bar, how many, how fast, how long still, and how many are refused."""

from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from valetkey.cli.formats import Answer
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

_STEP = 100  # answers between two movements of the bar


class ProgressCounts(Protocol):
    """What is under way: how many answers there will be, and how many so far are refusals."""

    @property
    def total(self) -> int:
        """How many answers there will be."""

    @property
    def refused(self) -> int:
        """How many of those that came are refusals."""


class _Rate(ProgressColumn):
    """Answers a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", "progress.data.speed")


def stderr_console() -> Console:
    """Where people read: stderr, others' words as they are."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False)


def with_progress_bar(
    answers: Iterator[Answer], counted: ProgressCounts, errors: Console, done: int, *, visible: bool
) -> Iterator[Answer]:
    """The same answers; where they are many, a bar on the terminal moves with them.

    The first `done` of all are not among these.
    """
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[refused]:,} refused"),
    )
    hidden = counted.total <= DEFAULT_CHUNK_ITEMS or not (visible and errors.is_terminal)
    # Left to itself, Rich sends what others write to stdout to its own console: stderr.
    with Progress(*columns, console=errors, disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task("", total=counted.total, completed=done, refused=counted.refused)
        for number, answer in enumerate(answers, done + 1):
            yield answer
            if number % _STEP == 0 or number == counted.total:
                bar.update(task, completed=number, refused=counted.refused)
