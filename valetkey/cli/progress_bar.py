"""A progress bar on stderr: results so far, results per second, time remaining, refusals."""

from collections.abc import Iterator
from time import monotonic

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

from valetkey.cli.formats import RowResult
from valetkey.cli.result_source import ResultSource
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

_UPDATE_INTERVAL = 100  # results between two updates of the bar


class _RateColumn(ProgressColumn):
    """Results per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", "progress.data.speed")


class _OutageColumn(ProgressColumn):
    """Why no results arrive, and for how many seconds, while the service says that it cannot."""

    def __init__(self, counts: ResultSource) -> None:
        super().__init__()
        self._counts = counts

    def render(self, _task: Task) -> Text:
        outage = self._counts.service_outage
        if outage is None:
            return Text()
        seconds = monotonic() - outage.since
        return Text(f"waiting: {outage.hint.subject} ({seconds:.0f} s)", "yellow")


def with_progress_bar(
    results: Iterator[RowResult],
    counts: ResultSource,
    errors: Console,
    results_done: int,
    *,
    visible: bool,
) -> Iterator[RowResult]:
    """Yield the results, and show a progress bar if there are many and stderr is a terminal.

    results_done is how many of the total are complete already and not among these results.
    """
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[refused]:,} refused"),
        _OutageColumn(counts),
    )
    hidden = counts.total <= DEFAULT_CHUNK_ITEMS or not (visible and errors.is_terminal)
    # By default, Rich redirects everything written to stdout to its own console, here stderr.
    with Progress(*columns, console=errors, disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task("", total=counts.total, completed=results_done, refused=counts.refused)
        for number, result in enumerate(results, results_done + 1):
            yield result
            if number % _UPDATE_INTERVAL == 0 or number == counts.total:
                bar.update(task, completed=number, refused=counts.refused)
