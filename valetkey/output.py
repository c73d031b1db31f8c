"""What the command line writes: answers to stdout or a file, and what to say of them to stderr."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from valetkey import files
from valetkey.handles import BatchHandle, GrantHandle
from valetkey.messages import DEFAULT_CHUNK, Explanation, Grant
from valetkey.refusals import QuotaState, Refusal
from valetkey.sentences import sentence, warning
from valetkey.snippets import curl, javascript, page, readable
from valetkey.tables import show_rules

_STEP = 100  # answers between two movements of the bar
_MOST_SENTENCES = 10


_FORMS = {
    "json": files.json_lines,
    "csv": files.csv_rows,
    "url": files.text(lambda grant: grant.url),
    "lines": files.text(lambda grant: f"{grant.key}\t{grant.url}"),
    "form": files.text(readable),
    "html": files.text(page),
    "js": files.text(javascript),
}
_BY_ENDING = {".csv": "csv", ".jsonl": "json"}


def deliver(
    asked: BatchHandle | GrantHandle | Explanation, form: str, said: Mapping[str, Any]
) -> int:
    """Write all answers in the form asked for, and say what was refused; return the exit code.

    form is used where neither an option nor the ending of --out's file names another. What would be
    decided is written as its rules. Raises NoAnswer or BrokerUnreachable, and OSError where the
    file cannot be written.
    """
    if isinstance(asked, Explanation):
        show_rules(asked, said["form"])
        return 0 if asked.decision == "issue" else 1
    batch = asked.batch if isinstance(asked, GrantHandle) else asked
    _write(batch, form, said)
    warn(batch.quotas)
    return 1 if batch.refused else 0


def _write(batch: BatchHandle, form: str, said: Mapping[str, Any]) -> None:
    out: Path | None = said["out"]
    named = said["form"] or (_BY_ENDING.get(out.suffix) if out else None)
    path = str(said["file"]) if said.get("file") else None
    forms = _FORMS | {"curl": files.text(lambda grant: curl(grant, path))}
    errors = Console(stderr=True, markup=False, emoji=False, highlight=False)
    with files.written(out) if out else nullcontext(sys.stdout) as stream:
        write = forms[named or form](stream)
        visible = batch.total > DEFAULT_CHUNK and errors.is_terminal and not stream.isatty()
        answers = _watched(batch.results(said["timeout"]), batch, errors, visible=visible)
        for answer in _explained(answers, batch, errors):
            write(answer)


def warn(quotas: Iterable[QuotaState]) -> None:
    """Say on stderr which soft limits are reached."""
    for quota in quotas:
        if quota.warns:
            click.echo(warning(quota), err=True)


def _watched(
    answers: Iterator[Grant | Refusal], batch: BatchHandle, errors: Console, *, visible: bool
) -> Iterator[Grant | Refusal]:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[refused]} refused"),
        TimeRemainingColumn(),
    )
    # Left to itself, Rich sends what others write to stdout to its own console: stderr.
    with Progress(*columns, console=errors, disable=not visible, redirect_stdout=False) as bar:
        task = bar.add_task("", total=batch.total, refused=0)
        for number, answer in enumerate(answers, 1):
            yield answer
            if number % _STEP == 0 or number == batch.total:
                bar.update(task, completed=number, refused=batch.refused)


def _explained(
    answers: Iterator[Grant | Refusal], batch: BatchHandle, errors: Console
) -> Iterator[Grant | Refusal]:
    refused = 0
    for answer in answers:
        yield answer
        if isinstance(answer, Refusal) and not _is_of_all(answer, batch):
            refused += 1
            if refused <= _MOST_SENTENCES:
                errors.print(sentence(answer), soft_wrap=True)
    if refused > _MOST_SENTENCES:
        more = refused - _MOST_SENTENCES
        errors.print(f"and {more} more were refused: see --json", soft_wrap=True)
    if batch.refusal is not None:
        errors.print(sentence(batch.refusal), soft_wrap=True)


def _is_of_all(refusal: Refusal, batch: BatchHandle) -> bool:
    return refusal.model_copy(update={"key": None}) == batch.refusal
