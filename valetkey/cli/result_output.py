"""Writes results to stdout or a file; progress, refusals and quota warnings to stderr."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from valetkey.cli.atomic_output import RowWriter, atomic_output, discard_run
from valetkey.cli.descriptions import (
    deduplication_key,
    describe_quota_warning,
    describe_refusal,
    describe_row_refusal,
    describe_run,
    describe_short_grants,
)
from valetkey.cli.formats import RowResult, get_layout
from valetkey.cli.journal import Checkpoint, Journal
from valetkey.cli.result_source import ResultSource
from valetkey.cli.row_errors import RowRefusal
from valetkey.cli.tables import show_explanation
from valetkey.cli.terminal_text import same_command, stderr_console
from valetkey.handles import BatchHandle, GrantHandle
from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.replies import Explanation

MAX_EXPLAINED_REFUSALS = 10

EXPIRED = 6
"""The exit code if a grant of the output has expired, or has too little time left."""

_FORMAT_BY_SUFFIX = {".csv": "csv", ".jsonl": "json"}


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
    return write_results(ResultSource(batch.total, batch), default_format, options)


def write_results(
    source: ResultSource,
    default_format: str,
    options: Mapping[str, Any],
    journal: Journal | None = None,
) -> int:
    """Write all results of a source as write_response does; with a journal, a run is resumable.

    A summary of a run with a journal is printed on stderr.
    """
    start = time.monotonic()
    out: Path | None = options["out"]
    file = str(options["file"]) if options.get("file") else None
    name = resolve_format(default_format, options)
    columns = [] if journal is None else journal.copied_columns
    heading, render = get_layout(name, file, columns)
    if out is not None and options["force"]:
        discard_run(out)
    with atomic_output(out, journal) if out else _open_stdout() as writer:
        writer.write_heading(heading)
        first = writer.checkpoint
        results = source.results(options["timeout"], first)
        reports = _with_reports(results, source, first.rows, options)
        lifetimes = source.lifetimes(options["expires_in"], first)
        rows = zip(reports, source.copied_values(first), lifetimes, strict=False)
        for result, values, lifetime in rows:
            writer.write_row(render(result, values), result, lifetime)
    print_quota_warnings(source.quotas)
    if journal is not None:
        seconds = time.monotonic() - start
        shown_out = str(out or "stdout")
        text = describe_run(writer.checkpoint, first.granted + writer.kept, shown_out, seconds)
        click.echo(text, err=True)
    return report_short_grants(writer.checkpoint, options) or (1 if source.refused else 0)


def report_short_grants(checkpoint: Checkpoint, options: Mapping[str, Any]) -> int:
    """Report grants that have expired or expire too soon; return EXPIRED if there are any, or 0.

    The command that is printed requests all grants again.
    """
    min_left: int | None = options["min_left"]
    expired, short = checkpoint.count_short(min_left, time.time())
    if not expired and not short:
        return 0
    out: Path | None = options["out"]
    click.echo(describe_short_grants(str(out or "stdout"), expired, short, min_left), err=True)
    click.echo(f"Next: {same_command('--force' if out else None)}", err=True)
    return EXPIRED


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


class _StdoutWriter:
    """A writer to stdout with the methods of RowWriter; its output cannot be resumed."""

    def __init__(self) -> None:
        self.checkpoint = Checkpoint()
        self.kept = 0

    def write_heading(self, text: str) -> None:
        sys.stdout.write(text)

    def write_row(self, text: str, result: RowResult, lifetime: int) -> None:
        sys.stdout.write(text)
        self.checkpoint = self.checkpoint.advance(result, 0, lifetime)


def _open_stdout() -> AbstractContextManager["RowWriter | _StdoutWriter"]:
    return nullcontext(_StdoutWriter())


def _with_reports(
    results: Iterator[RowResult],
    source: ResultSource,
    results_done: int,
    options: Mapping[str, Any],
) -> Iterator[RowResult]:
    """Yield the results while showing progress and explaining refusals on stderr.

    Refusals of invalid rows are not explained here: they were reported when the input was scanned.
    """
    # Rich loads in 70 ms, which commands without results do not need.
    from valetkey.cli.progress_bar import with_progress_bar  # noqa: PLC0415

    errors, refused = stderr_console(), 0
    visible = options["out"] is not None or not sys.stdout.isatty()
    for result in with_progress_bar(results, source, errors, results_done, visible=visible):
        yield result
        if isinstance(result, Refusal) and not isinstance(result, RowRefusal):
            identity = deduplication_key(result)
            if any(identity == deduplication_key(refusal) for refusal in source.refusals):
                continue
            refused += 1
            if refused <= MAX_EXPLAINED_REFUSALS:
                file = options.get("source")
                text = describe_row_refusal(result, file) if file else describe_refusal(result)
                errors.print(text, soft_wrap=True)
    if refused > MAX_EXPLAINED_REFUSALS:
        unexplained = refused - MAX_EXPLAINED_REFUSALS
        text = f"and {unexplained:,} more were refused: --json and --csv list them all"
        errors.print(text, soft_wrap=True)
    for refusal in source.refusals:
        errors.print(describe_refusal(refusal), soft_wrap=True)
