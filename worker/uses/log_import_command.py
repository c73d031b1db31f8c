"""Imports access logs of storage."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import click
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from sqlalchemy import Engine

from valetkey.cli.format_options import format_option
from valetkey.cli.terminal_text import stderr_console
from worker.cli.database import open_engine
from worker.context import Context, create_context
from worker.errors import Malformed, Transient
from worker.settings import Settings
from worker.uses.log_imports import (
    ImportResult,
    LogImporter,
    LogSource,
    find_log_files,
    find_log_objects,
)

_S3 = "s3://"
_SKIPPED = {
    "other": "name no grant, or are of another operation",
    "failed": "are of requests that storage refused",
    "unsigned": "are of requests without a signature",
    "malformed": "are cut off, too long or of another format",
}
_IGNORED = {
    "unknown_grant": "name a grant that was never issued here",
    "other_key": "name a grant of another object",
    "other_kind": "name a grant that allows no download",
    "other_signer": "name a grant, but another access key signed their URL",
    "before_issue": "are older than the grant that they name",
    "malformed": "have a time or a size that cannot be true",
    "unstorable": "have values that the database does not accept",
}


@click.command("import")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@format_option("--json", "Print one JSON object, with the numbers by reason.")
@click.pass_context
def import_logs(
    context: click.Context, /, *, sources: tuple[str, ...], output_format: str | None
) -> None:
    """Record the downloads in access logs: SOURCE is a file, a folder or s3://PROFILE/PREFIX.

    It reads AWS's server access logs, which Ceph RGW writes as well, and RGW's operations log; .gz
    files too. A download is a line of a signed GET or HEAD with the id of a grant. It is recorded
    with its time, bytes, address and user agent, once, however often it is imported.

    The same command continues an interrupted import, reads what was added to a file, and skips
    logs that it has read. A log that cannot be read stops no other: the exit code is 1 then, and if
    a source has no logs. Storage writes its logs hours later, and not every request gets a line:
    a grant without a download may have been used.

    \b
    Examples:
      python -m worker usage import /var/log/s3/2026-11-26.log
      python -m worker usage import s3://logs/acme-reports/2026-11-
    """
    if "" in sources:
        raise click.UsageError("a SOURCE is empty")
    with open_engine() as engine:
        result = _import(sources, engine, context)
    if output_format == "json":
        click.echo(
            json.dumps({field.name: getattr(result, field.name) for field in fields(result)})
        )
    else:
        click.echo("\n".join(_describe(result)))
    if result.failed:
        context.exit(1)


def _import(sources: tuple[str, ...], engine: Engine, click_context: click.Context) -> ImportResult:
    context = create_context(engine, Settings())
    console = stderr_console()
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} lines"), TimeElapsedColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)
        importer = LogImporter(context, lambda lines: bar.advance(task, lines), _report_problem)
        try:
            for source in sources:
                _import_source(source, importer, context)
        except KeyboardInterrupt:
            click.echo("Interrupted: the same command continues the import.", err=True)
            click_context.exit(130)
        except Transient as error:
            raise click.ClickException(f"{error}. The same command continues the import.") from None
    return importer.result


def _report_problem(name: str, problem: str) -> None:
    click.echo(f"{name}: {problem}", err=True)


def _import_source(source: str, importer: LogImporter, context: Context) -> None:
    """Import the logs of a source. Another source may be right if it is wrong."""
    has_logs = False
    try:
        for found in _find(source, context):
            has_logs = True
            importer.run(found)
    except (Malformed, OSError) as error:
        importer.fail(source, error)
    else:
        if not has_logs:
            importer.fail(source, Malformed("no logs"))


def _find(source: str, context: Context) -> Iterable[LogSource]:
    if source.startswith(_S3):
        profile, _, prefix = source.removeprefix(_S3).partition("/")
        return find_log_objects(profile, prefix, context)
    return find_log_files(Path(source))


def _describe(result: ImportResult) -> Iterator[str]:
    known = f", {result.known:,} known before" if result.known else ""
    before = f", {result.imported_before:,} imported before" if result.imported_before else ""
    yield (
        f"{_count(result.downloads, 'download')} recorded{known};"
        f" read {_count(result.lines, 'line')} of {_count(result.logs, 'log')}{before}"
    )
    for reason, text in _SKIPPED.items():
        if result.skipped[reason]:
            yield f"  {result.skipped[reason]:,} lines {text}"
    for reason, text in _IGNORED.items():
        if result.ignored[reason]:
            yield f"  {result.ignored[reason]:,} downloads {text}"
    if result.unfinished:
        yield f"  {result.unfinished:,} lines are not finished yet: import them later"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
