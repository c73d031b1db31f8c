"""What the command line writes: answers to stdout or a file, and what to say of them to stderr."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import click

from valetkey.cli import formats
from valetkey.cli.atomic_output import AtomicFile, atomic_output
from valetkey.cli.bulk.journal import Checkpoint, Journal
from valetkey.cli.bulk.row_errors import RowRefusal
from valetkey.cli.formats import Answer
from valetkey.cli.messages import describe_quota_warning, describe_refusal, refusal_identity
from valetkey.cli.progress_bar import stderr_console, with_progress_bar
from valetkey.cli.tables import show_rules
from valetkey.handles import BatchHandle, GrantHandle
from valetkey.wire.messages import Explanation
from valetkey.wire.refusals import QuotaState, Refusal

MOST_SENTENCES = 10

_BY_ENDING = {".csv": "csv", ".jsonl": "json"}


class AnswerSource(Protocol):
    """What was asked; refusals are those of whole batches, each once.

    Its results begin where the mark says, each after no more than `timeout` seconds.
    """

    @property
    def total(self) -> int: ...  # noqa: D102 - the class says it, here and below
    @property
    def refused(self) -> int: ...  # noqa: D102
    @property
    def refusals(self) -> Sequence[Refusal]: ...  # noqa: D102
    @property
    def quotas(self) -> Sequence[QuotaState]: ...  # noqa: D102
    def results(self, timeout: float, mark: Checkpoint) -> Iterator[Answer]: ...  # noqa: D102


def write_response(
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
    return write_job(_One(batch), form, said)


def write_job(
    asked: AnswerSource, form: str, said: Mapping[str, Any], run: Journal | None = None
) -> int:
    """The same for a whole job; with a run, what does not succeed can be gone on with."""
    out: Path | None = said["out"]
    file = str(said["file"]) if said.get("file") else None
    heading, row = formats.get_format(output_format(form, said), file)
    with atomic_output(out, run) if out else _printed() as to:
        to.head(heading)
        for answer in _told(asked, said["timeout"], to.mark, printing=out is None):
            to.write(row(answer), answer)
    print_quota_warnings(asked.quotas)
    return 1 if asked.refused else 0


def output_format(form: str, said: Mapping[str, Any]) -> str:
    """The form that the command line asks for, or else this one."""
    out: Path | None = said["out"]
    return said["form"] or (_BY_ENDING.get(out.suffix) if out else None) or form


def print_quota_warnings(quotas: Iterable[QuotaState]) -> None:
    """Say on stderr which soft limits are reached."""
    for quota in quotas:
        if quota.warns:
            click.echo(describe_quota_warning(quota), err=True)


class _One:
    """One batch, which begins at its beginning."""

    def __init__(self, batch: BatchHandle) -> None:
        self._batch = batch
        self.total = batch.total

    @property
    def refused(self) -> int:
        return self._batch.refused

    @property
    def refusals(self) -> Sequence[Refusal]:
        return [self._batch.refusal] if self._batch.refusal else []

    @property
    def quotas(self) -> Sequence[QuotaState]:
        return self._batch.quotas

    def results(self, timeout: float, _mark: Checkpoint) -> Iterator[Answer]:
        return self._batch.results(timeout)


class _Printed:
    """Stdout, of which nothing can be gone on with."""

    mark = Checkpoint()

    def head(self, text: str) -> None:
        sys.stdout.write(text)

    def write(self, text: str, _answer: Answer) -> None:
        sys.stdout.write(text)


def _printed() -> AbstractContextManager["AtomicFile | _Printed"]:
    return nullcontext(_Printed())


def _told(
    asked: AnswerSource, timeout: float, mark: Checkpoint, *, printing: bool
) -> Iterator[Answer]:
    """The answers, of which stderr has a bar, and the refusals in words; bad rows it had before."""
    errors, refused = stderr_console(), 0
    visible = not (printing and sys.stdout.isatty())
    answers = asked.results(timeout, mark)
    for answer in with_progress_bar(answers, asked, errors, mark.rows, visible=visible):
        yield answer
        if isinstance(answer, Refusal) and not isinstance(answer, RowRefusal):
            if any(refusal_identity(answer) == refusal_identity(whole) for whole in asked.refusals):
                continue
            refused += 1
            if refused <= MOST_SENTENCES:
                errors.print(describe_refusal(answer), soft_wrap=True)
    if refused > MOST_SENTENCES:
        more = refused - MOST_SENTENCES
        errors.print(f"and {more:,} more were refused: see --json", soft_wrap=True)
    for whole in asked.refusals:
        errors.print(describe_refusal(whole), soft_wrap=True)
