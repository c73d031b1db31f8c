"""The demo's terminal output, and checks that stop the demo if they fail."""

import sys
from collections.abc import Iterable, Iterator
from typing import NoReturn

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from valetkey import Grant, Refusal

console = Console(highlight=False)
_UPDATE_EVERY = 100  # grants between two updates of the progress bar


def show_heading(text: str) -> None:
    """Print the heading of the next step."""
    console.print(f"\n[bold]{text}[/]")


def show_success(text: str) -> None:
    """Print a line with a check mark."""
    console.print(f"  [green]✓[/] {text}", soft_wrap=True)


def check(condition: bool, text: str) -> None:  # noqa: FBT001 - reads as "check that"
    """Print that the text is true, or stop the demo if the condition is false."""
    if not condition:
        fail(f"expected, but not true: {text}")
    show_success(text)


def check_storage_refuses(response: httpx.Response, request: str) -> None:
    """Print the error with which storage refused a request, or stop the demo if it did not."""
    if response.is_success:
        fail(f"the storage accepted a request that it must refuse: {request}")
    code = response.text.partition("<Code>")[2].partition("</Code>")[0]
    show_success(f"{request}: {response.status_code} {code}")


def fail(text: str) -> NoReturn:
    """Print an error and exit with status 1."""
    console.print(f"  [red]✗[/] {text}")
    sys.exit(1)


def expect_grants(results: Iterable[Grant | Refusal]) -> Iterator[Grant]:
    """Yield the grants; stop the demo at a refusal."""
    for result in results:
        if isinstance(result, Refusal):
            fail(f"{result.key} was refused: {result.message}")
        yield result


def show_progress(grants: Iterable[Grant], total: int) -> Iterator[Grant]:
    """Yield the grants while a progress bar is shown."""
    columns = ("  ", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total)
        for number, grant in enumerate(grants, 1):
            yield grant
            if number % _UPDATE_EVERY == 0:
                bar.update(task, completed=number)
