"""The commands about the uses of grants: `uses import` and `uses setup`."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, get_args

import click
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from sqlalchemy import Engine

from valetkey.cli.format_options import format_option
from valetkey.cli.terminal_text import stderr_console
from worker.base.database_engine import read_transaction
from worker.cli.database import open_database, open_engine
from worker.errors import Transient
from worker.ledger.tenant_rows import load_config
from worker.rules.issued_grants import is_on_aws
from worker.rules.tenant_config import Bucket, DefaultEndpoints
from worker.settings import Settings
from worker.shared.pages import did_you_mean
from worker.uses.storage_setup import Storage, setup_documents, setup_names, setup_steps

if TYPE_CHECKING:
    from worker.uses.log_imports import ImportResult


@click.group()
def uses() -> None:
    """Record the uses of grants that storage reports."""


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


@uses.command("import")
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
      python -m worker uses import /var/log/s3/2026-11-26.log
      python -m worker uses import s3://logs/acme-reports/2026-11-
    """
    if "" in sources:
        raise click.UsageError("a SOURCE is empty")
    with open_engine() as engine:
        result = _import(sources, engine, context)
    if output_format == "json":
        values = {field.name: getattr(result, field.name) for field in fields(result)}
        click.echo(json.dumps(values))
    else:
        click.echo("\n".join(_describe(result)))
    if result.failed:
        context.exit(1)


def _import(
    sources: tuple[str, ...], engine: Engine, click_context: click.Context
) -> "ImportResult":
    from worker.context import create_context  # noqa: PLC0415 - `uses setup` needs no boto3
    from worker.uses.log_imports import LogImporter  # noqa: PLC0415 - as above

    context = create_context(engine, Settings())
    console = stderr_console()
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} lines"), TimeElapsedColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)
        importer = LogImporter(context, lambda lines: bar.advance(task, lines), _report_problem)
        try:
            for source in sources:
                importer.run(source)
        except KeyboardInterrupt:
            click.echo("Interrupted: the same command continues the import.", err=True)
            click_context.exit(130)
        except Transient as error:
            raise click.ClickException(f"{error}. The same command continues the import.") from None
    return importer.result


def _report_problem(name: str, problem: str) -> None:
    click.echo(f"{name}: {problem}", err=True)


def _describe(result: "ImportResult") -> Iterator[str]:
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


_EXAMPLE_ACCOUNT = "111122223333"


def _check_account(
    _context: click.Context, _param: click.Parameter, text: str | None
) -> str | None:
    if text is not None and not re.fullmatch("[0-9]{12}", text):
        raise click.BadParameter("an AWS account is 12 digits, without hyphens")
    return text


def _check_queue(_context: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    if text is not None and text.endswith(".fifo"):
        raise click.BadParameter("storage sends to no FIFO queue: name a standard queue")
    if text is not None and not re.fullmatch("[A-Za-z0-9_-]{1,80}", text):
        raise click.BadParameter("a queue's name is 1 to 80 characters of A-Z, a-z, 0-9, - and _")
    return text


@uses.command("setup")
@click.argument("profile")
@click.option(
    "--storage",
    type=click.Choice(get_args(Storage)),
    help="The storage behind the profile. Needed unless it is AWS.",
)
@click.option(
    "--account",
    metavar="ID",
    callback=_check_account,
    help=f"The AWS account of bucket and queue; unset: the profile's owner, or {_EXAMPLE_ACCOUNT}.",
)
@click.option(
    "--queue",
    metavar="NAME",
    callback=_check_queue,
    help="The name of the queue; unset: valetkey-PROFILE.",
)
@format_option("--json", "Print one JSON object with the documents alone, by file name.")
def setup(
    *,
    profile: str,
    storage: Storage | None,
    account: str | None,
    queue: str | None,
    output_format: str | None,
) -> None:
    """Print how to let the storage behind bucket profile PROFILE report uses.

    The command changes nothing. It prints the documents and commands for event notifications, which
    report stored and deleted objects within seconds, and for access logs, which report downloads
    hours later. Uploads need neither: the service looks for their objects when their slots end.

    \b
    Examples:
      python -m worker uses setup demo
      python -m worker uses setup demo --storage seaweedfs
    """
    bucket = _find(profile)
    endpoint = DefaultEndpoints(Settings().s3_endpoint).public_of(bucket)
    if storage is None and not is_on_aws(bucket, endpoint):
        text = f"{bucket.name} is not on AWS: add --storage minio, rgw or seaweedfs"
        raise click.UsageError(text)
    storage = storage or "aws"
    account = account or bucket.owner or _EXAMPLE_ACCOUNT
    names = setup_names(bucket, account, queue or f"valetkey-{profile}")
    documents = setup_documents(storage, names)
    if output_format == "json":
        if not documents:
            raise click.UsageError(f"{storage} needs no documents: leave out --json for its steps")
        click.echo(json.dumps(documents))
        return
    for name, document in documents.items():
        click.echo(f"cat > {name} <<'END'\n{json.dumps(document, indent=2)}\nEND\n")
    click.echo(setup_steps(storage, names), nl=False)


def _find(profile: str) -> Bucket:
    with open_database(read_transaction) as connection:
        buckets = load_config(connection).buckets
    bucket = buckets.get(profile)
    if bucket is None:
        hint = did_you_mean(profile, buckets)
        raise click.BadParameter(f"there is no bucket profile {profile!r}{hint}")
    if bucket.bucket.startswith("arn:"):
        text = f"{profile} is an access point: events and logs name the bucket behind it"
        raise click.UsageError(f"{text}, which needs a bucket profile of its own")
    return bucket
