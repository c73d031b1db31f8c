"""The command `audit verify`, which reads the database without heavy imports."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, Protocol

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from valetkey.cli.terminal_text import escape_unprintable, stderr_console
from worker.base.database_engine import autocommit_read
from worker.cli.database import (
    database_errors,
    existing_database,
    open_database,
    tables_state,
    unusable_tables,
)
from worker.proof.checkpoint_format import InvalidKey, VerifierKey
from worker.proof.verify.log_reader import UnknownTenant, open_reader, tenant_ids
from worker.proof.verify.stored_rows import Problem
from worker.proof.verify.tree_check import (
    KnownCheckpoint,
    UnusableFile,
    abandoned_checkpoints,
    read_checkpoint_files,
)
from worker.proof.verify.verification import (
    COUNTS,
    OnProgress,
    Verification,
    VerifyOptions,
    verify_log,
)


def refuse_other_tables(url: str) -> None:
    """Raise click.ClickException for the tables of another release: their rows would differ."""
    with closing(open_reader(url)) as reader:
        rows = reader.fetch("SELECT version_num FROM alembic_version")
    state = tables_state(rows[0][0] if rows else None)
    if state is not None:
        raise unusable_tables(state, url)


_MAX_PROBLEMS = 100
_KEY_FILE = "VALETKEY_AUDIT_KEY_FILE"


def _parse_key(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> tuple[VerifierKey, ...]:
    try:
        return tuple(map(VerifierKey.parse, texts))
    except InvalidKey as error:
        raise click.BadParameter(f"{error}; `audit key` prints it") from None


@click.command("verify")
@click.option("--tenant", help="Only this tenant; NAME~2 is the second one that had the name.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="VKEY",
    callback=_parse_key,
    help="Trust checkpoints of this public key. Default: the keys in VALETKEY_AUDIT_KEY_FILE.",
)
@click.option(
    "--checkpoint",
    "files",
    multiple=True,
    metavar="PATH",
    type=click.Path(exists=True, path_type=Path),
    help="Also compare with this checkpoint, or with all in this folder.",
)
@click.option(
    "--export",
    "exported",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also compare a file of `audit export` with its manifest and with the log.",
)
@click.option(
    "--keep-going", is_flag=True, help=f"List up to {_MAX_PROBLEMS} problems, not only the first."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.pass_context
def verify(  # noqa: PLR0913 - one for each option
    context: click.Context,
    /,
    *,
    tenant: str | None,
    keys: tuple[VerifierKey, ...],
    files: tuple[Path, ...],
    exported: Path | None,
    keep_going: bool,
    as_json: bool,
) -> None:
    """Verify that no row of the audit log was changed, removed, added or moved.

    Hashes all rows again, and compares them with the leaves of the tenants' Merkle trees, the trees
    with their heads and checkpoints, and the usage of tenants with the cost of their grants. Only
    checkpoints that are kept outside of the database show that the whole log was written anew, or
    that its end was cut off: give them with --checkpoint.

    With --export, also compares the file with the log, and the log with the trees in its manifest.
    Only the log of the tenants that the export can contain is verified.

    Ends with 0 if nothing differs, and with 1 and the first row that does. Only reads, so that a
    copy of the database, or a user who may only SELECT, is enough.

    \b
    Examples:
      python -m worker audit verify
      python -m worker audit verify --key "$(cat auditor.vkey)" --checkpoint checkpoints/
      python -m worker audit verify --export november.csv
    """
    keys = keys or _configured_keys()
    known, limit = _read_checkpoints(files, keys), _MAX_PROBLEMS if keep_going else 1
    options = VerifyOptions((), keys, known, limit)
    if exported is None:
        outcome = _verify(tenant, options)
    else:
        outcome = _verify_export(exported, tenant, options)
    (_print_json if as_json else _print_text)(outcome)
    _note_weak_proof(outcome.result, keys)
    context.exit(not outcome.result.is_sound)


_EXPORT_OPTION = "audit verify --export"


class _ExportCheck(Protocol):
    """The comparison of a file with its manifest and with the log. Raises UnusableFile."""

    @property
    def tenant(self) -> str | None: ...
    def checkpoints(self, keys: Sequence[VerifierKey]) -> Iterator[KnownCheckpoint]: ...
    def compare(self) -> list[Problem]: ...
    def summary(self) -> dict[str, Any]: ...


class _Outcome(NamedTuple):
    """The result of a verification, what else to say, and the time that reading the log took.

    A notice has a `text`, a `type`, and the values that the text has.
    """

    result: Verification
    notices: list[dict[str, Any]]
    seconds: float


def _read_checkpoints(
    files: tuple[Path, ...], keys: tuple[VerifierKey, ...]
) -> tuple[KnownCheckpoint, ...]:
    try:
        return tuple(read_checkpoint_files(files, keys))
    except UnusableFile as error:
        text = escape_unprintable(str(error))
        raise click.BadParameter(text, param_hint="--checkpoint") from None


def _verify(tenant: str | None, options: VerifyOptions) -> _Outcome:
    """Verify the log of all tenants, or of one."""
    url = existing_database()
    with database_errors(url), _progress() as on_progress:
        refuse_other_tables(url)
        tenants = () if tenant is None else _tenants(url, tenant)
        options = replace(options, tenants=tenants)
        started = monotonic()
        result = verify_log(url, options, on_progress)
        seconds = monotonic() - started
        return _Outcome(result, _find_notices(url, options), seconds)


def _verify_export(path: Path, tenant: str | None, options: VerifyOptions) -> _Outcome:
    """Verify the log of the tenants of an export, and compare its rows."""
    if tenant is not None:
        raise click.UsageError("--export verifies the tenants of the export: leave out --tenant")
    # Imported for this option alone: it imports pydantic.
    from worker.features import contributions, resolve  # noqa: PLC0415

    create_check = contributions("commands").get(_EXPORT_OPTION)
    if create_check is None:
        raise click.UsageError("--export needs the feature export, which is not in the list")
    with open_database(autocommit_read) as connection:
        try:
            check: _ExportCheck = resolve(create_check)(connection, path)
            known = [*options.files, *check.checkpoints(options.keys)]
        except UnusableFile as error:
            text = escape_unprintable(str(error))
            raise click.BadParameter(text, param_hint="--export") from None
        files = tuple(sorted(known, key=attrgetter("size")))
        outcome = _verify(check.tenant, replace(options, files=files))
        try:
            outcome.result.problems += check.compare()
        except OSError as error:
            raise click.ClickException(f"{path}: {error.strerror}.") from None
        except Exception:
            if outcome.result.is_sound:
                raise
            text = f"{path}: the database has rows that cannot be read, so it was not compared."
            outcome.notices.append({"type": "notice", "text": text, "file": str(path)})
            return outcome
        outcome.notices.append(check.summary())
        return outcome


def _find_notices(url: str, options: VerifyOptions) -> list[dict[str, Any]]:
    """Name the checkpoints that the database lacks, and the trees that no checkpoint covers."""
    notices = []
    newest = {known.tenant: known.size for known in options.files if not known.is_tree}
    with closing(open_reader(url)) as reader:
        for known in options.files:
            size, root, tenant = known[:3]
            if options.tenants and tenant not in options.tenants:
                continue
            if known.is_tree:
                stored = "SELECT 1 FROM checkpoints WHERE tenant = ? AND size >= ?"
                is_missing = newest.get(tenant, 0) < size and not reader.fetch(stored, tenant, size)
                text = "no checkpoint covers it yet: `audit checkpoint` signs one"
            else:
                stored = "SELECT 1 FROM checkpoints WHERE tenant = ? AND size = ? AND root = ?"
                is_missing = not reader.fetch(stored, tenant, size, root)
                text = "the database lacks it: it was removed there, or an older copy was restored"
                if fork := is_missing and abandoned_checkpoints(reader, tenant).get(known[:2]):
                    text = f"this log does not continue it: {fork}"
            if is_missing:
                text = f"{known.name.rstrip(',')}, of tenant {tenant}: {text}."
                place = {"tenant": tenant, "size": size, "file": known.file}
                notices.append({"type": "notice", "text": text[0].upper() + text[1:], **place})
    return notices


def _configured_keys() -> tuple[VerifierKey, ...]:
    if not any(name.upper() == _KEY_FILE for name in os.environ):
        return ()
    # Imported if they are needed: the settings take longer to import than 100,000 rows to verify.
    from worker.proof.checkpoint_key import (  # noqa: PLC0415
        KeyRefused,
        KeyUnusable,
        NoKey,
        configured_keys,
    )
    from worker.proof.proof_settings import ProofSettings  # noqa: PLC0415

    try:
        return tuple(configured_keys(ProofSettings()).trusted)
    except NoKey:
        return ()
    except KeyUnusable as error:
        raise KeyRefused(error) from None


def _tenants(url: str, tenant: str) -> tuple[str, ...]:
    try:
        with closing(open_reader(url)) as reader:
            return tenant_ids(reader, tenant)
    except UnknownTenant as error:
        raise click.BadParameter(str(error), param_hint="--tenant") from None


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """Show a progress bar on stderr if that is a terminal."""
    console = stderr_console()
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn()
    hidden = not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _note_weak_proof(result: Verification, keys: tuple[VerifierKey, ...]) -> None:
    """Say on stderr if the log was compared with no checkpoint, or with none whose key is known."""
    if result.counts["leaves"] and not result.counts["checkpoints"]:
        text = "No checkpoint was compared, so nothing shows that the log was not written anew."
        click.echo(text, err=True)
    if result.counts["checkpoints"] and not keys:
        click.echo("No signature was verified: give the public key with --key.", err=True)


def _print_json(outcome: _Outcome) -> None:
    result, notices, seconds = outcome
    for problem in result.problems:
        click.echo(json.dumps({"type": "problem", **problem._asdict()}, default=str))
    for notice in notices:
        click.echo(json.dumps(notice))
    rate = round(result.counts["items"] / seconds) if seconds else None
    counts = {name: result.counts[name] for name in COUNTS}
    summary = {"type": "summary", "sound": result.is_sound, **counts}
    click.echo(json.dumps({**summary, "seconds": round(seconds, 3), "rows_per_second": rate}))


def _print_text(outcome: _Outcome) -> None:
    result, notices, seconds = outcome
    for problem in result.problems:
        click.echo(escape_unprintable(str(problem)))
    if result.problems:
        click.echo("Next: docs/runbooks/log.md.")
    for notice in notices:
        click.echo(escape_unprintable(notice["text"]))
    rate = f"{result.counts['items'] / seconds:,.0f} rows/s" if seconds else ""
    found = "Nothing differs" if result.is_sound else "It does NOT verify"
    numbers = ", ".join(f"{result.counts[name]:,} {name}" for name in COUNTS if result.counts[name])
    click.echo(f"{found}. Verified: {numbers or 'an empty log'}; {seconds:.1f} s, {rate}")
