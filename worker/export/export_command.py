"""The command `audit export`, to a file, to stdout or into a bucket."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Connection

from valetkey.cli.atomic_output import check_file_type
from valetkey.cli.descriptions import describe_seconds
from valetkey.cli.journal import journal_path
from valetkey.cli.terminal_text import stderr_console
from valetkey.units import format_size, format_utc
from worker import clock
from worker.audit.audit_rows import count_streamed, read_bound
from worker.audit.grant_filters import GrantFilter, filter_options, note_pruned, read_filter
from worker.base.database_engine import autocommit_read
from worker.cli.database import open_database
from worker.errors import Malformed
from worker.export.export_manifest import SUFFIX, make_manifest, manifest_path, read_trees
from worker.export.export_run import (
    ExportJournal,
    ExportResult,
    FormatName,
    HashedStream,
    Output,
    discard,
    is_text,
    load_journal,
    open_partial,
    save_journal,
    write_rows,
)
from worker.shared.whole_files import write_private_file

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


class ExportRequest(NamedTuple):
    """The options of an export: options are as typed, filters as parsed."""

    format_name: FormatName
    options: dict[str, Any]
    filters: dict[str, Any]
    is_forced: bool


class StdoutTarget:
    """Standard output, which cannot be continued, and has no place for a manifest."""

    def __str__(self) -> str:
        return "stdout"

    @contextmanager
    def open(
        self, connection: Connection, request: ExportRequest, grant_filter: GrantFilter
    ) -> Iterator[Output]:
        """Open stdout for bytes."""
        stream = HashedStream(sys.stdout.buffer)
        yield _new_output(connection, request, grant_filter, stream, BytesIO())
        sys.stdout.buffer.flush()


@dataclass(frozen=True)
class FileTarget:
    """A file with a private mode. A text in it can be continued."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def open(
        self, connection: Connection, request: ExportRequest, grant_filter: GrantFilter
    ) -> Iterator[Output]:
        """Open the partial file, and continue it if an export with the same options began it."""
        journal = self._load_journal(request)
        if journal is None:
            journal = _new_journal(connection, request, grant_filter)
        else:
            grant_filter = replace(grant_filter, since=journal.since, until=journal.until)
        manifest = BytesIO()
        with open_partial(self.path, journal) as (file, started):
            stream = HashedStream(file)
            stream.read_existing()

            def save(progress: ExportJournal) -> None:
                if is_text(request.format_name):
                    os.fsync(file.fileno())
                    save_journal(self.path, progress)

            yield Output(stream, manifest, request.format_name, started, grant_filter, save)
            # Before the file gets its name: if this fails, the same command continues the export.
            write_private_file(manifest_path(self.path), manifest.getvalue(), replace=True)

    def _load_journal(self, request: ExportRequest) -> ExportJournal | None:
        folder = self.path.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise click.UsageError(f"the folder {folder} does not exist or is not writable")
        try:
            check_file_type(self.path)
        except FileExistsError as error:
            text = f"{self.path} is {error.strerror}: name a file, or - for stdout"
            raise click.BadParameter(text, param_hint="--out") from None
        if request.is_forced:
            discard(self.path)
            manifest_path(self.path).unlink(missing_ok=True)  # it says nothing of the new file
            return None
        path = journal_path(self.path)
        try:
            journal = load_journal(self.path)
        except (OSError, ValueError):
            raise click.UsageError(
                f"{path} is damaged: add --force to begin the export anew"
            ) from None
        # An export that was stopped at its very end has left its manifest.
        for taken in (self.path, manifest_path(self.path))[: 2 if journal is None else 1]:
            if taken.exists():
                raise click.UsageError(f"{taken} exists: name another file, or add --force")
        if journal is not None and journal.options != request.options:
            names = sorted(
                name
                for name in {*journal.options, *request.options}
                if journal.options.get(name) != request.options.get(name)
            )
            raise click.UsageError(
                f"{path} is of an interrupted export with other options ({', '.join(names)}): give"
                " the same options to continue it, or --force to begin anew"
            )
        return journal


@dataclass(frozen=True)
class BucketTarget:
    """An object in the bucket of a profile, stored by a multipart upload."""

    profile: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.profile}/{self.key}"

    @contextmanager
    def open(
        self, connection: Connection, request: ExportRequest, grant_filter: GrantFilter
    ) -> Iterator[Output]:
        """Start the upload. It is completed at the end of the block, or aborted."""
        # Imported for this target alone: boto3 takes long to import.
        from worker.export.bucket_object import open_object  # noqa: PLC0415

        forced, key = request.is_forced, self.key
        with (  # the last one is completed first
            open_object(connection, self.profile, key + SUFFIX, may_replace=forced) as manifest,
            open_object(connection, self.profile, key, may_replace=forced) as file,
        ):
            stream = HashedStream(file)
            yield _new_output(connection, request, grant_filter, stream, manifest)


Target = StdoutTarget | FileTarget | BucketTarget
"""The place of an export. Its text is how messages call it.

open raises click.UsageError and OSError.
"""


def _describe_rest(target: Target, format_name: FormatName) -> str:
    """Say what an interrupted export has left, and what to do."""
    if isinstance(target, StdoutTarget):
        return "what was printed is not complete."
    if isinstance(target, BucketTarget):
        return "the upload was aborted, and nothing is stored."
    continues = "continues the export" if is_text(format_name) else "begins the export anew"
    return f"the same command {continues}."


def _new_output(
    connection: Connection,
    request: ExportRequest,
    grant_filter: GrantFilter,
    stream: HashedStream,
    manifest: IO[bytes],
) -> Output:
    journal = _new_journal(connection, request, grant_filter)
    return Output(stream, manifest, request.format_name, journal, grant_filter, lambda _: None)


def _new_journal(
    connection: Connection, request: ExportRequest, grant_filter: GrantFilter
) -> ExportJournal:
    return ExportJournal(
        options=request.options,
        since=grant_filter.since,
        until=grant_filter.until,
        trees=read_trees(connection, grant_filter),  # first, so that all their chunks are exported
        bound=read_bound(connection, clock.now()),
    )


_S3 = "s3://"


class _ExportCommand(click.Command):
    """A command that keeps the texts of its options, to compare them with an interrupted run's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        values, _, _ = self.make_parser(ctx).parse_args(list(args))
        ctx.meta[__name__] = {
            name: value for name, value in sorted(values.items()) if name not in {"out", "force"}
        }
        return super().parse_args(ctx, args)


def _parse_target(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> Target | None:
    if text is None:
        return None
    if text == "-":
        return StdoutTarget()
    if text.startswith(_S3):
        profile, _, key = text.removeprefix(_S3).partition("/")
        if not profile or not key:
            raise click.BadParameter("name a bucket profile and a key, as in s3://PROFILE/KEY")
        return BucketTarget(profile, key)
    return FileTarget(Path(text))


@click.command("export", cls=_ExportCommand)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["csv", "jsonl", "parquet", "ocsf"]),
    default="csv",
    show_default=True,
    help="The format of the rows.",
)
@click.option(
    "--out",
    metavar="FILE",
    callback=_parse_target,
    help="A file, which only its owner may read; - for stdout, the default of csv, jsonl and ocsf;"
    " or s3://PROFILE/KEY, an object in the bucket of a bucket profile.",
)
@click.option(
    "--force", is_flag=True, help="Replace what --out names, and begin an interrupted export anew."
)
@filter_options
@click.pass_context
def export(
    context: click.Context,
    /,
    *,
    format_name: FormatName,
    out: Target | None,
    force: bool,
    **filters: Any,
) -> None:
    """Export every requested item that matches, oldest batch first.

    The file or object appears under its name when it is complete, or not at all. It contains what
    was decided before the export began. If an export of csv, jsonl or ocsf to a file is
    interrupted, the same command continues it. parquet has typed columns, and ocsf has OCSF events
    of the class API Activity. No format contains links or signatures. Beside a file or object is
    its manifest, by which `audit verify --export` finds what is missing.

    \b
    Examples:
      python -m worker audit export --since 2026-11 --out november.csv
      python -m worker audit export --tenant acme --format jsonl > acme.jsonl
      python -m worker audit export --format parquet --out s3://archive/audit/2026.parquet
    """
    if out is None and not is_text(format_name):
        raise click.UsageError(f"{format_name} is no text: name a file with --out")
    target = out or StdoutTarget()
    request = ExportRequest(format_name, context.meta[__name__], filters, is_forced=force)
    try:
        result = _run(target, request)
    except Malformed as error:
        raise click.ClickException(f"{target}: {error}.") from None
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise  # Click ends the command silently
        text = f"{error.filename or target}: {error.strerror or error}"
        raise click.ClickException(f"The export failed: {text}.") from None
    except KeyboardInterrupt:
        click.echo(f"Interrupted: {_describe_rest(target, format_name)}", err=True)
        context.exit(130)
    click.echo(_describe(target, result), err=True)


def _run(target: Target, request: ExportRequest) -> ExportResult:
    with open_database(autocommit_read) as connection:
        grant_filter = read_filter(connection, request.filters)
        note_pruned(connection, grant_filter.since)
        with target.open(connection, request, grant_filter) as output:
            console, journal, total = stderr_console(), output.journal, 0
            if console.is_terminal:
                selected = output.grant_filter
                total = count_streamed(connection, selected, journal.bound, journal.position)
            with row_progress(console, total, journal.rows) as on_rows:
                result = write_rows(connection, output, on_rows)
            filters = _typed_filters(request.options)
            output.manifest.write(make_manifest(connection, output, result, filters))
    return result


def _typed_filters(options: dict[str, Any]) -> dict[str, Any]:
    """Return the filters among the options as typed, by the names that they have there."""
    names = {str(option.name): option.opts[0] for option in filter_parameters()}
    return {names[name]: text for name, text in options.items() if name in names}


def filter_parameters() -> list[click.Option]:
    """Return the options that select rows."""
    options = [option for option in export.params if isinstance(option, click.Option)]
    return [option for option in options if option.name not in {"format_name", "out", "force"}]


def _describe(target: Target, result: ExportResult) -> str:
    rate = f"{result.rows_now / result.seconds:,.0f} rows/s" if result.seconds > 0 else ""
    now = f" ({result.rows_now:,} of them now)" if result.rows_now != result.rows else ""
    return (
        f"{target}: {result.rows:,} rows{now}, {format_size(result.bytes)}, in"
        f" {describe_seconds(result.seconds)} ({rate}), decided before"
        f" {format_utc(result.bound.decided_before)}\nSHA-256: {result.sha256}"
        + ("" if isinstance(target, StdoutTarget) else f"\nManifest: {target}{SUFFIX}")
    )
