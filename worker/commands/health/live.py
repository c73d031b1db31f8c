"""`doctor --live`: uses and misuses grants of a bucket profile in its storage."""

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from valetkey.cli.printable import escape_unprintable
from worker import clock
from worker.aws.clients import S3Clients
from worker.aws.credentials import CredentialCache
from worker.commands.database import open_database
from worker.commands.output import print_rows
from worker.commands.signals import signals_as_interrupt
from worker.core.signing.object_keys import is_simple_key
from worker.core.tenants.config import Bucket
from worker.db.engine import read_transaction
from worker.db.tenants import load_config
from worker.errors import Malformed, Transient
from worker.net.storage_requests import StorageConnection
from worker.settings import Settings
from worker.usecases.live_checks.findings import FIRST_FAILED, GOOD_VERDICTS, Finding
from worker.usecases.live_checks.run import (
    LiveRun,
    LiveServices,
    deletion_finding,
    findings_of_unusable_profile,
    prepare_run,
)

DEFAULT_PREFIX = "valetkey-doctor/"
_MAX_PREFIX = 900  # leaves room for the run's own prefix and names in a key of 1,024 bytes
_COLOURS = {"ok": "green", "not tried": "dim", "not supported": "yellow"}
_COLUMNS = Finding._fields
_INTERNAL_HINT = (
    "If only the users of links reach this address, and not this machine, add --internal: requests"
    " then go to the endpoint that the service calls."
)
_VERDICT = _COLUMNS.index("verdict")
_ANSWER = _COLUMNS.index("answer")  # followed by the note


class _Options(NamedTuple):
    prefix: str
    yes: bool
    internal: bool
    as_json: bool


def parse_prefix(_context: click.Context, _option: click.Parameter, text: str) -> str:
    """Return a prefix of object keys. Callback of a Click option."""
    if not text.endswith("/") or not is_simple_key(text[:-1]) or len(text) > _MAX_PREFIX:
        raise click.BadParameter(
            "expected a prefix of plain characters that ends with a slash, like acme/doctor/, with"
            f" at most {_MAX_PREFIX} characters"
        )
    return text


def check_storage(
    names: Sequence[str], *, prefix: str, yes: bool, internal: bool, as_json: bool
) -> bool:
    """Try the grants of bucket profiles in storage, and print a table of each.

    Returns true if all that was tried is as it should be, and nothing is left. Raises
    click.ClickException for an unknown profile, or if nobody can be asked. With internal, connects
    to the endpoints that the service calls, with the host of links.
    """
    buckets = _load_buckets(names)
    options = _Options(prefix, yes, internal, as_json)
    settings = Settings()
    s3 = S3Clients.from_settings(settings)
    if internal:
        _check_internal_endpoints(s3, buckets)
    _confirm([(bucket, _address(s3, bucket, options)) for bucket in buckets], options)
    with closing(StorageConnection()) as connection:
        credentials = CredentialCache(settings.sts_endpoint)
        services = LiveServices(s3, credentials, connection.send, clock.now)
        results = [
            _check_bucket(_connected(services, connection, bucket, options), bucket, options)
            for bucket in buckets
        ]
        return all(results)


def _check_internal_endpoints(s3: S3Clients, buckets: Sequence[Bucket]) -> None:
    for bucket in buckets:
        if s3.internal_endpoint(bucket) is None:
            raise click.ClickException(
                f"the profile {bucket.name} has no internal endpoint: omit --internal"
            )


def _connected(
    services: LiveServices, connection: StorageConnection, bucket: Bucket, options: _Options
) -> LiveServices:
    endpoint = services.s3.internal_endpoint(bucket) if options.internal else None
    return replace(services, send=partial(connection.send, endpoint=endpoint))


def _load_buckets(names: Sequence[str]) -> list[Bucket]:
    with open_database(read_transaction) as connection:
        buckets = load_config(connection).buckets
    for name in names:
        if name not in buckets:
            known = ", ".join(sorted(buckets)) or "none"
            raise click.ClickException(
                f"there is no bucket profile {escape_unprintable(name)!r}; applied are: {known}"
            )
    return [buckets[name] for name in dict.fromkeys(names)]


def _address(s3: S3Clients, bucket: Bucket, options: _Options) -> str:
    """Return the address to be named in the question: a profile without endpoint may mean AWS."""
    try:
        target = s3.target(bucket)
    except (Malformed, Transient):
        return "an unknown address"  # the table has the reason
    address = f"{target.scheme}://{target.host}"
    return f"{address}, through {s3.internal_endpoint(bucket)}" if options.internal else address


def _confirm(buckets: Sequence[tuple[Bucket, str]], options: _Options) -> None:
    if options.yes:
        return
    for bucket, address in buckets:
        click.echo(
            f"This stores about 60 small objects and one of 5 MiB under {options.prefix} in the "
            f"bucket {bucket.bucket} of the profile {bucket.name} at {address}, uses and misuses "
            "grants for them, and deletes them. It takes less than a minute.",
            err=True,
        )
    click.echo("Nothing is charged to a tenant or recorded in the audit log.", err=True)
    if not sys.stdin.isatty():
        raise click.ClickException("there is no terminal to confirm this on: give --yes")
    click.confirm("Go on?", abort=True, err=True)


def _check_bucket(services: LiveServices, bucket: Bucket, options: _Options) -> bool:
    findings: list[Finding] = []
    with signals_as_interrupt(), Console(stderr=True).status(f"Trying {bucket.name} …"):
        try:
            run = prepare_run(services, bucket, options.prefix)
        except (Malformed, Transient) as error:
            findings, was_interrupted = findings_of_unusable_profile(str(error)), False
        else:
            was_interrupted = _run(run, findings)
    _print_findings(bucket, findings, options)
    is_silent = findings[0].verdict == "error" and not findings[0].answer if findings else False
    if is_silent and not options.internal and services.s3.internal_endpoint(bucket) is not None:
        click.echo(_INTERNAL_HINT, err=True)
    if was_interrupted:
        raise click.Abort
    return all(finding.verdict in GOOD_VERDICTS for finding in findings)


def _run(run: LiveRun, findings: list[Finding]) -> bool:
    """Add the findings of a run, and delete what it wrote. Return true if it was interrupted."""
    was_interrupted = False
    try:
        for finding in run.findings():
            findings.append(finding)  # noqa: PERF402 - those before an interruption are kept
    except KeyboardInterrupt:
        was_interrupted = True
    finally:
        left = _delete(run)
        for line in left:
            click.echo(f"Not deleted: {escape_unprintable(line)}", err=True)
    findings.append(deletion_finding(left))
    return was_interrupted


def _delete(run: LiveRun) -> list[str]:
    try:
        return run.delete()
    except KeyboardInterrupt:  # the first one; later ones are ignored
        return run.delete()


def _print_findings(bucket: Bucket, findings: Sequence[Finding], options: _Options) -> None:
    rows = [tuple(map(escape_unprintable, finding)) for finding in findings]
    if options.as_json:
        print_rows(("profile", *_COLUMNS), [(bucket.name, *row) for row in rows], "json")
        return
    shown, folded = _fold(rows)
    counts = Counter(finding.verdict for finding in findings)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    click.echo(f"Profile {bucket.name}, bucket {bucket.bucket}")
    click.echo()
    if sys.stdout.isatty():
        _print_rich_table(shown)
    else:
        print_rows(_COLUMNS, shown, None)
    if folded:
        click.echo(f"{folded} more checks were not tried, because the first one failed.")
    click.echo(f"\n{len(findings)} checks: {summary}.")


def _fold(rows: list[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], int]:
    """Return the rows of a table, and the number of those that have nothing to say."""
    shown = [row for row in rows if row[-1] != FIRST_FAILED]
    return shown, len(rows) - len(shown)


def _print_rich_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table that 80 columns hold: whole words of storage, and notes in the same column."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in _COLUMNS[:_ANSWER]:
        table.add_column(name, no_wrap=name != "check")
    table.add_column("answer", overflow="fold")
    for *cells, answer, note in rows:
        texts = [Text(cell) for cell in (*cells, " ".join(filter(None, (answer, note))))]
        texts[_VERDICT].stylize(_COLOURS.get(cells[_VERDICT], "bold red"))
        table.add_row(*texts)
    Console().print(table)
