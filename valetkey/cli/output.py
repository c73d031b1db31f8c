"""Writes results to stdout or a file, and explains refusals and quota warnings on stderr."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import click

from valetkey.cli import formats
from valetkey.cli.atomic_output import RowWriter, atomic_output
from valetkey.cli.bulk.journal import Checkpoint, Journal
from valetkey.cli.bulk.row_errors import RowRefusal
from valetkey.cli.descriptions import deduplication_key, describe_quota_warning, describe_refusal
from valetkey.cli.formats import ItemResult
from valetkey.cli.progress_bar import stderr_console, with_progress_bar
from valetkey.cli.tables import show_explanation
from valetkey.delivery.pending_request import ServiceOutage
from valetkey.handles import BatchHandle, GrantHandle
from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.replies import Explanation

MAX_EXPLAINED_REFUSALS = 10

_FORMAT_BY_SUFFIX = {".csv": "csv", ".jsonl": "json"}


class ResultSource(Protocol):
    """The results of one or more batches.

    refused counts the refusals among the results so far; refusals are those of whole batches, each
    listed once. results() yields the results after a checkpoint; `timeout` is the longest wait for
    the next ones, in seconds.
    """

    @property
    def total(self) -> int: ...  # noqa: D102 - described by the class, here and below
    @property
    def refused(self) -> int: ...  # noqa: D102
    @property
    def refusals(self) -> Sequence[Refusal]: ...  # noqa: D102
    @property
    def quotas(self) -> Sequence[QuotaState]: ...  # noqa: D102
    @property
    def service_outage(self) -> ServiceOutage | None: ...  # noqa: D102
    def results(self, timeout: float, checkpoint: Checkpoint) -> Iterator[ItemResult]: ...  # noqa: D102


def write_response(
    response: BatchHandle | GrantHandle | Explanation,
    default_format: str,
    options: Mapping[str, Any],
) -> int:
    """Write all results of a request, explain its refusals, and return the exit code.

    default_format applies if neither an option nor the ending of --out's file names a format. For
    an Explanation, write its rules. Raises NoAnswer or BrokerUnreachable, and OSError if the file
    cannot be written.
    """
    if isinstance(response, Explanation):
        show_explanation(response, options["output_format"])
        return 0 if response.decision == "issue" else 1
    batch = response.batch if isinstance(response, GrantHandle) else response
    return write_results(_SingleBatch(batch), default_format, options)


def write_results(
    source: ResultSource,
    default_format: str,
    options: Mapping[str, Any],
    journal: Journal | None = None,
) -> int:
    """Write all results of a source as write_response does; with a journal, a run is resumable."""
    out: Path | None = options["out"]
    file = str(options["file"]) if options.get("file") else None
    heading, render = formats.get_format(resolve_format(default_format, options), file)
    with atomic_output(out, journal) if out else _open_stdout() as writer:
        writer.write_heading(heading)
        results = source.results(options["timeout"], writer.checkpoint)
        done = writer.checkpoint.rows
        for result in _with_reports(results, source, done, is_printing=out is None):
            writer.write_row(render(result), result)
    print_quota_warnings(source.quotas)
    return 1 if source.refused else 0


def resolve_format(default_format: str, options: Mapping[str, Any]) -> str:
    """Return the name of the format: from an option, the suffix of --out, or the default."""
    out: Path | None = options["out"]
    suffix_format = _FORMAT_BY_SUFFIX.get(out.suffix) if out else None
    return options["output_format"] or suffix_format or default_format


def print_quota_warnings(quotas: Iterable[QuotaState]) -> None:
    """Print a warning on stderr for each quota whose soft limit is reached."""
    for quota in quotas:
        if quota.warns:
            click.echo(describe_quota_warning(quota), err=True)


class _SingleBatch:
    """A ResultSource of one batch; its results always begin with the first item."""

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

    @property
    def service_outage(self) -> ServiceOutage | None:
        return self._batch.service_outage

    def results(self, timeout: float, _checkpoint: Checkpoint) -> Iterator[ItemResult]:
        return self._batch.results(timeout)


class _StdoutWriter:
    """A writer to stdout with the methods of RowWriter; its output cannot be resumed."""

    checkpoint = Checkpoint()

    def write_heading(self, text: str) -> None:
        sys.stdout.write(text)

    def write_row(self, text: str, _result: ItemResult) -> None:
        sys.stdout.write(text)


def _open_stdout() -> AbstractContextManager["RowWriter | _StdoutWriter"]:
    return nullcontext(_StdoutWriter())


def _with_reports(
    results: Iterator[ItemResult], source: ResultSource, results_done: int, *, is_printing: bool
) -> Iterator[ItemResult]:
    """Yield the results while showing progress and explaining refusals on stderr.

    Refusals of invalid rows are not explained here: they were reported when the input was scanned.
    """
    errors, refused = stderr_console(), 0
    visible = not (is_printing and sys.stdout.isatty())
    for result in with_progress_bar(results, source, errors, results_done, visible=visible):
        yield result
        if isinstance(result, Refusal) and not isinstance(result, RowRefusal):
            identity = deduplication_key(result)
            if any(identity == deduplication_key(refusal) for refusal in source.refusals):
                continue
            refused += 1
            if refused <= MAX_EXPLAINED_REFUSALS:
                errors.print(describe_refusal(result), soft_wrap=True)
    if refused > MAX_EXPLAINED_REFUSALS:
        unexplained = refused - MAX_EXPLAINED_REFUSALS
        text = f"and {unexplained:,} more were refused: --json and --csv list them all"
        errors.print(text, soft_wrap=True)
    for refusal in source.refusals:
        errors.print(describe_refusal(refusal), soft_wrap=True)
