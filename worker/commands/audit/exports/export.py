"""Exports the audit log to a file, to stdout or into a bucket."""

from pathlib import Path
from typing import Any

import click

from valetkey.cli.results.consoles import stderr_console
from valetkey.cli.results.summary import describe_seconds
from valetkey.units import format_size, format_utc
from worker.commands.audit.exports.progress import row_progress
from worker.commands.audit.exports.targets import (
    BucketTarget,
    ExportRequest,
    FileTarget,
    StdoutTarget,
    Target,
)
from worker.commands.audit.filter_options import filter_options, note_pruned, read_filter
from worker.commands.database import open_database
from worker.db.audit.stream import count_streamed
from worker.db.engine import autocommit_read
from worker.errors import Malformed
from worker.usecases.audit_export.formats import FormatName
from worker.usecases.audit_export.run import ExportResult, ExportRun

_S3 = "s3://"
_BINARY_FORMATS = ("parquet",)


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
    of the class API Activity. No format contains links or signatures.

    \b
    Examples:
      python -m worker audit export --since 2026-11 --out november.csv
      python -m worker audit export --tenant acme --format jsonl > acme.jsonl
      python -m worker audit export --format parquet --out s3://archive/audit/2026.parquet
    """
    if out is None and format_name in _BINARY_FORMATS:
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
        click.echo(f"Interrupted: {target.describe_rest(request)}", err=True)
        context.exit(130)
    click.echo(_describe(target, result), err=True)


def _run(target: Target, request: ExportRequest) -> ExportResult:
    with open_database(autocommit_read) as connection:
        grant_filter = read_filter(connection, request.filters)
        note_pruned(connection, grant_filter.since)
        with target.open(connection, request, grant_filter) as output:
            console, journal = stderr_console(), output.journal
            total = 0
            if console.is_terminal:
                position = journal.position
                selected = output.grant_filter
                total = count_streamed(connection, selected, journal.bound, position)
            with row_progress(console, total, journal.rows) as on_rows:
                run = ExportRun(
                    connection, output.grant_filter, journal, on_rows, output.save_journal
                )
                return run.write(output.stream, output.writer)


def _describe(target: Target, result: ExportResult) -> str:
    rate = f"{result.rows_now / result.seconds:,.0f} rows/s" if result.seconds > 0 else ""
    now = f" ({result.rows_now:,} of them now)" if result.rows_now != result.rows else ""
    return (
        f"{target}: {result.rows:,} rows{now}, {format_size(result.bytes)}, in"
        f" {describe_seconds(result.seconds)} ({rate}), decided before"
        f" {format_utc(result.bound.decided_before)}\nSHA-256: {result.sha256}"
    )
