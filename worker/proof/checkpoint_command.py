"""Signs the heads of the audit log's trees, and publishes them."""

from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection

from worker.base.database_engine import autocommit_read
from worker.cli.database import open_database, operator_account
from worker.context import create_context
from worker.ledger.merkle import CONFIG_LOG
from worker.proof.checkpoint_destinations import Destinations
from worker.proof.checkpoint_forks import Comparison
from worker.proof.checkpoint_key import checkpoint_keys
from worker.proof.checkpoint_rows import Publication, StoredCheckpoint
from worker.proof.checkpoints import (
    SigningResult,
    all_trees,
    publish_checkpoints,
    sign_checkpoints,
)
from worker.proof.proof_settings import ProofSettings
from worker.proof.prove_command import find_trees
from worker.settings import Settings
from worker.shared.command_options import format_options, parse_reason
from worker.shared.output import print_rows
from worker.shared.whole_files import write_file

_COLUMNS = ("tenant", "state", "size", "signed_at", "root", "note")


@click.command("checkpoint")
@click.option(
    "--tenant", help=f"Only the tree of this tenant, by name or id; {CONFIG_LOG} is the config's."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write the newest checkpoint of --tenant to FILE, or to stdout if it is -.",
)
@click.option(
    "--fork",
    "reason",
    callback=parse_reason,
    metavar="REASON",
    help="Declare that the log does not continue what was published, and why; then sign it.",
)
@format_options
@click.pass_context
def checkpoint(
    context: click.Context,
    /,
    *,
    tenant: str | None,
    out: str | None,
    reason: str | None,
    output_format: Any,
) -> None:
    """Sign the head of each tenant's tree that has grown, and publish what is new.

    A checkpoint says how many leaves a tenant's log has, and their hash. Who keeps one sees later
    whether the log was rewritten or shortened since. It is stored in the database, and sent to the
    destinations in VALETKEY_AUDIT_CHECKPOINTS; the upkeep worker does the same every hour.

    A head is not signed if it does not continue the last checkpoint in the database and the newest
    one at each destination, or if none can be compared. If an old backup was restored, --fork says
    so in a leaf, and signing resumes. The exit code is 1 if anything was not signed or published.

    \b
    Examples:
      python -m worker audit checkpoint
      python -m worker audit checkpoint --tenant acme --out acme.checkpoint
      python -m worker audit checkpoint --fork "restored Tuesday's backup"
    """
    if out is not None and (tenant is None or output_format is not None):
        raise click.UsageError("--out writes one checkpoint: it needs --tenant, and no format")
    keys, settings = checkpoint_keys(), ProofSettings()
    with open_database(autocommit_read) as connection:  # no transaction while others are waited for
        tenant_ids = None if tenant is None else _select(connection, tenant, out)
        service = create_context(connection.engine, Settings())
        if reason is not None:
            _declare_forks(Destinations(service, settings, keys.trusted), tenant_ids, reason)
        results = list(sign_checkpoints(service, keys, settings, tenant_ids))
        publications = list(publish_checkpoints(service, settings, tenant_ids))
    if out is None:
        _print_results(results, output_format)
    else:
        _write_note(out, results[0].checkpoint)
    context.exit(_print_problems(results, publications))


def _declare_forks(destinations: Destinations, tenant_ids: list[str] | None, reason: str) -> None:
    """Declare the fork of each tree that needs it. Raises click.BadParameter if none does."""
    comparison, author = Comparison(destinations), operator_account()
    trees = all_trees(destinations.context) if tenant_ids is None else tenant_ids
    forks = [comparison.declare_fork(each, reason, author) for each in trees]
    for fork in filter(None, forks):
        sizes = f"{len(fork.contradicted)} checkpoints, up to {fork.heads[-1].size:,} leaves"
        click.echo(f"Declared a fork of {fork.tenant}: it does not continue {sizes}.", err=True)
    if not comparison.readable():
        text = "VALETKEY_AUDIT_CHECKPOINTS names no folder and no bucket to compare the log with"
        raise click.BadParameter(text, param_hint="--fork")
    if not any(forks):
        text = (
            "no destination has a checkpoint that the log does not continue;"
            " `audit checkpoint` says which cannot be compared"
        )
        raise click.BadParameter(text, param_hint="--fork")


def _print_problems(results: list[SigningResult], publications: list[Publication]) -> bool:
    """Print why trees are not signed and checkpoints not published; return whether any is not."""
    problems = [f"not signed: {row.tenant_id}: {row.problem}" for row in results if row.problem]
    problems += [
        f"not published: {row.tenant} to {row.label}: {row.problem}"
        for row in publications
        if row.problem
    ]
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    return bool(problems)


def _select(connection: Connection, tenant: str, out: str | None) -> list[str]:
    tenant_ids = find_trees(connection, tenant)
    if out is not None and len(tenant_ids) > 1:
        text = f"several tenants had this name: name one of {', '.join(tenant_ids)}"
        raise click.BadParameter(text, param_hint="--tenant")
    return tenant_ids


def _print_results(results: list[SigningResult], output_format: Any) -> None:
    shown = len(_COLUMNS) - (output_format is None)  # the table has no column for the note
    rows = [_to_row(result)[:shown] for result in results]
    print_rows(_COLUMNS[:shown], rows, output_format)


def _to_row(result: SigningResult) -> tuple[Any, ...]:
    checkpoint = result.checkpoint
    if checkpoint is None:
        return result.tenant_id, "refused", None, None, None, None
    state = "signed" if result.is_new else "unchanged"
    head = checkpoint.size, checkpoint.signed_at, checkpoint.root.hex()
    return result.tenant_id, state, *head, checkpoint.note


def _write_note(out: str, checkpoint: StoredCheckpoint | None) -> None:
    """Write a note under its name when it is complete."""
    if checkpoint is None:
        return
    if out == "-":
        click.echo(checkpoint.note, nl=False)
        return
    try:
        write_file(Path(out), checkpoint.note.encode(), replace=True)
    except OSError as error:
        raise click.BadParameter(f"{out}: {error.strerror}", param_hint="--out") from None
