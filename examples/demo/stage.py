"""What the demo says, and how it stops when something is not as claimed."""

import sys
from collections.abc import Iterable, Iterator
from typing import NoReturn

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from valetkey import Grant, Refusal

console = Console(highlight=False)
_STEP = 100  # answers between two movements of the bar


def headline(text: str) -> None:
    """Say what comes next."""
    console.print(f"\n[bold]{text}[/]")


def good(text: str) -> None:
    """Say what went well."""
    console.print(f"  [green]✓[/] {text}", soft_wrap=True)


def check(claim: bool, text: str) -> None:  # noqa: FBT001 - reads as: check that
    """Say what is true, or stop where it is not."""
    if not claim:
        fail(f"not so: {text}")
    good(text)


def refused(answer: httpx.Response, what: str) -> None:
    """Say that storage refused something, or stop where it did not."""
    if answer.is_success:
        fail(f"storage took {what}")
    code = answer.text.partition("<Code>")[2].partition("</Code>")[0]
    good(f"{what}: {answer.status_code} {code}")


def fail(text: str) -> NoReturn:
    """Stop the demo."""
    console.print(f"  [red]✗[/] {text}")
    sys.exit(1)


def granted(answers: Iterable[Grant | Refusal]) -> Iterator[Grant]:
    """Pass grants on, and stop at a refusal."""
    for answer in answers:
        if isinstance(answer, Refusal):
            fail(f"{answer.key} was refused: {answer.message}")
        yield answer


def with_progress(answers: Iterable[Grant], total: int) -> Iterator[Grant]:
    """Pass answers on under a progress bar."""
    columns = ("  ", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total)
        for number, answer in enumerate(answers, 1):
            yield answer
            if number % _STEP == 0:
                bar.update(task, completed=number)
