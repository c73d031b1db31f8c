"""Adds `--live` to the command `doctor`: tries grants in storage, and prints a table of each."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial, wraps
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from valetkey.cli.terminal_text import escape_unprintable
from valetkey.signing.object_keys import is_simple_key
from worker.aws.credentials import CredentialCache
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import read_transaction
from worker.cli.command_options import confirm
from worker.cli.database import open_database
from worker.errors import Malformed, Transient
from worker.ledger.tenant_rows import load_config
from worker.live.live_checks import LiveRun, deletion_finding, findings_of_unusable_profile
from worker.live.live_trial import FIRST_FAILED, GOOD_VERDICTS, Finding
from worker.rules.tenant_config import Bucket
from worker.settings import Settings
from worker.shared.aws_permissions import DOCTOR_PREFIX
from worker.shared.command_options import signals_as_interrupt
from worker.shared.output import print_rows
from worker.shared.storage_requests import StorageConnection

_MAX_PREFIX = 900  # leaves room for the run's own prefix and names in a key of 1,024 bytes
_VERDICT_COLOURS = {"ok": "green", "not tried": "dim", "not supported": "yellow"}
_FINDING_COLUMNS = Finding._fields
_INTERNAL_HINT = (
    "If only the users of links reach this address, and not this machine, add --internal: requests"
    " then go to the endpoint that the service calls."
)
_VERDICT = _FINDING_COLUMNS.index("verdict")
_ANSWER = _FINDING_COLUMNS.index("answer")  # followed by the note


class _LiveOptions(NamedTuple):
    prefix: str
    yes: bool
    internal: bool
    as_json: bool


def _parse_prefix(_context: click.Context, _option: click.Parameter, text: str) -> str:
    if not text.endswith("/") or not is_simple_key(text[:-1]) or len(text) > _MAX_PREFIX:
        raise click.BadParameter(
            "expected a prefix of plain characters that ends with a slash, like acme/doctor/, with"
            f" at most {_MAX_PREFIX} characters"
        )
    return text


def _check_live(names: Sequence[str], options: _LiveOptions) -> bool:
    """Try the grants of bucket profiles in storage, and print a table of each.

    Returns true if all that was tried is as it should be, and nothing is left. Raises
    click.ClickException for an unknown profile, or if nobody can be asked. With internal, connects
    to the endpoints that the service calls, with the host of links.
    """
    buckets = _load_buckets(names)
    settings = Settings()
    s3 = S3Clients.from_settings(settings)
    for bucket in buckets if options.internal else ():
        if s3.internal_endpoint(bucket) is None:
            raise click.ClickException(
                f"the profile {bucket.name} has no internal endpoint: omit --internal"
            )
    _confirm_live([(bucket, _address(s3, bucket, options)) for bucket in buckets], options)
    with closing(StorageConnection()) as connection:
        credentials = CredentialCache(settings.sts_endpoint)
        results = []
        for bucket in buckets:
            endpoint = s3.internal_endpoint(bucket) if options.internal else None
            send = partial(connection.send, endpoint=endpoint)
            prepare = partial(LiveRun, s3, credentials, send, bucket, options.prefix)
            results.append(_check_bucket(prepare, s3, bucket, options))
        return all(results)


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


def _address(s3: S3Clients, bucket: Bucket, options: _LiveOptions) -> str:
    """Return the address to be named in the question: a profile without endpoint may mean AWS."""
    try:
        target = s3.target(bucket)
    except (Malformed, Transient):
        return "an unknown address"  # the table has the reason
    address = f"{target.scheme}://{target.host}"
    return f"{address}, through {s3.internal_endpoint(bucket)}" if options.internal else address


def _confirm_live(buckets: Sequence[tuple[Bucket, str]], options: _LiveOptions) -> None:
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
    confirm("Continue?")


def _check_bucket(
    prepare: Callable[[], LiveRun], s3: S3Clients, bucket: Bucket, options: _LiveOptions
) -> bool:
    findings: list[Finding] = []
    with signals_as_interrupt(), Console(stderr=True).status(f"Trying {bucket.name} …"):
        try:
            run = prepare()
        except (Malformed, Transient) as error:
            findings, was_interrupted = findings_of_unusable_profile(str(error)), False
        else:
            was_interrupted = _run_live(run, findings)
    _print_findings(bucket, findings, options)
    is_silent = findings[0].verdict == "error" and not findings[0].answer if findings else False
    if is_silent and not options.internal and s3.internal_endpoint(bucket) is not None:
        click.echo(_INTERNAL_HINT, err=True)
    if was_interrupted:
        raise click.Abort
    return all(finding.verdict in GOOD_VERDICTS for finding in findings)


def _run_live(run: LiveRun, findings: list[Finding]) -> bool:
    """Add the findings of a run, and delete what it wrote. Return true if it was interrupted."""
    was_interrupted = False
    try:
        for finding in run.findings():
            findings.append(finding)  # noqa: PERF402 - those before an interruption are kept
    except KeyboardInterrupt:
        was_interrupted = True
    finally:
        try:
            left = run.delete()
        except KeyboardInterrupt:  # the first one; later ones are ignored
            left = run.delete()
        for line in left:
            click.echo(f"Not deleted: {escape_unprintable(line)}", err=True)
    findings.append(deletion_finding(left))
    return was_interrupted


def _print_findings(bucket: Bucket, findings: Sequence[Finding], options: _LiveOptions) -> None:
    rows = [tuple(map(escape_unprintable, finding)) for finding in findings]
    if options.as_json:
        print_rows(("profile", *_FINDING_COLUMNS), [(bucket.name, *row) for row in rows], "json")
        return
    shown = [row for row in rows if row[-1] != FIRST_FAILED]
    counts = Counter(finding.verdict for finding in findings)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    click.echo(f"Profile {bucket.name}, bucket {bucket.bucket}")
    click.echo()
    if sys.stdout.isatty():
        _print_rich_table(shown)
    else:
        print_rows(_FINDING_COLUMNS, shown, None)
    if len(shown) < len(rows):
        click.echo(
            f"{len(rows) - len(shown)} more checks were not tried, because the first one failed."
        )
    click.echo(f"\n{len(findings)} checks: {summary}.")


def _print_rich_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table that 80 columns hold: whole words of storage, and notes in the same column."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in _FINDING_COLUMNS[:_ANSWER]:
        table.add_column(name, no_wrap=name != "check")
    table.add_column("answer", overflow="fold")
    for *cells, answer, note in rows:
        texts = [Text(cell) for cell in (*cells, " ".join(filter(None, (answer, note))))]
        texts[_VERDICT].stylize(_VERDICT_COLOURS.get(cells[_VERDICT], "bold red"))
        table.add_row(*texts)
    Console().print(table)


_DEFAULTS = {"yes": False, "prefix": DOCTOR_PREFIX, "internal": False}
_OPTIONS = (
    click.option(
        "--live",
        "profiles",
        metavar="PROFILE",
        multiple=True,
        help="Try grants of this bucket profile in storage, instead of all other checks."
        " Repeatable.",
    ),
    click.option("--yes", is_flag=True, help="With --live: do not ask for confirmation."),
    click.option(
        "--prefix",
        default=DOCTOR_PREFIX,
        show_default=True,
        callback=_parse_prefix,
        help="With --live: store the objects below this prefix.",
    ),
    click.option(
        "--internal",
        is_flag=True,
        help="With --live: connect to the internal endpoints, with the host of links.",
    ),
)


def add_live_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, and pass `check_live` to it: see there."""

    @wraps(command)
    def with_live(*args: Any, **options: Any) -> None:
        command(*args, check_live=check_live, **options)

    for option in reversed(_OPTIONS):
        with_live = option(with_live)
    return with_live


def check_live(
    profiles: tuple[str, ...], *, offline: bool, as_json: bool, **options: Any
) -> bool | None:
    """Try the grants of the named bucket profiles; return None if none is named.

    Otherwise returns true if all that was tried is as it should be. Raises click.ClickException.
    """
    if profiles and offline:
        raise click.UsageError("--live tries storage, which --offline excludes")
    if profiles:
        return _check_live(profiles, _LiveOptions(as_json=as_json, **options))
    if options != _DEFAULTS:
        raise click.UsageError("--yes, --prefix and --internal need --live PROFILE")
    return None
