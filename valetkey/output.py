"""What the command line writes: answers to stdout or a file, and what to say of them to stderr."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from valetkey import files
from valetkey.handles import BatchHandle
from valetkey.messages import DEFAULT_CHUNK, Grant
from valetkey.refusals import QuotaState, Refusal
from valetkey.snippets import curl, javascript, page, readable

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


def deliver(batch: BatchHandle, form: str, said: Mapping[str, Any]) -> None:
    """Write all answers of a batch in the form asked for, and say what was refused.

    form is used where neither an option nor the ending of --out's file names another. Raises
    NoAnswer or BrokerUnreachable, and OSError where the file cannot be written.
    """
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


def sentence(refusal: Refusal) -> str:
    """Why something was refused, and what would not have been."""
    what = "the request" if refusal.key is None else repr(refusal.key)
    where = f" in {refusal.field}" if refusal.field else ""
    text = f"refused {what}: {refusal.code}{where}: {refusal.message}"
    if refusal.quota is not None:
        return f"{text}; {_quota(refusal.quota)}"
    return text if refusal.limit is None else f"{text} (limit: {_limit(refusal.limit)})"


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


def _quota(quota: QuotaState) -> str:
    unit = "bytes to upload" if quota.metric == "upload_bytes" else "grants"
    return (
        f"the limit is {quota.limit} {unit} per {quota.window}, {quota.used} are used and "
        f"{quota.asked} were asked for; it starts again at {quota.resets_at:%Y-%m-%d %H:%M %Z}"
    )


def _limit(limit: int | str | list[str]) -> str:
    return ", ".join(limit) if isinstance(limit, list) else str(limit)
