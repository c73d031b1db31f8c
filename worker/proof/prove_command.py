"""Prints proofs that auditors verify without this service."""

import json
import sys
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection

from worker.base.database_engine import read_transaction
from worker.base.pages import did_you_mean
from worker.cli.command_options import parse_cursor
from worker.cli.database import open_database
from worker.core.issued_grants import GrantName
from worker.proof.checkpoint_format import MAX_NOTE_BYTES, InvalidNote
from worker.proof.checkpoint_rows import known_names, read_trees
from worker.proof.log_proofs import LogDiffers, NothingToProve, prove_consistency, prove_grant


def find_trees(connection: Connection, tenant: str, option: str = "--tenant") -> list[str]:
    """Return the ids with a tree that a name or id selects.

    Raises click.BadParameter, which names the option, if there is none.
    """
    tenant_ids = read_trees(connection, tenant)
    if not tenant_ids:
        names = known_names(connection)
        if tenant in names:
            text = f"nothing was recorded for {tenant!r} yet"
        else:
            text = f"there is no tenant {tenant!r}{did_you_mean(tenant, names)}"
        raise click.BadParameter(text, param_hint=option)
    return tenant_ids


@click.command("prove")
@click.argument("grant", required=False, callback=parse_cursor)
@click.option(
    "--since",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="CHECKPOINT",
    help="Prove that the log continues the checkpoint in this file.",
)
def prove(*, grant: GrantName | None, since: str | None) -> None:
    """Print a proof that GRANT is in the log, or that the log continues a checkpoint.

    GRANT is BATCH.NUMBER, or TENANT/BATCH.NUMBER. The proof is JSON. docs/verify_audit_proof.py
    verifies it: it needs the public key that `audit key` prints, and neither this service nor its
    database.

    The exit code is 1 if the log is not the one that its checkpoints sign.

    \b
    Examples:
      python -m worker audit prove 01932000-0000-7000-8000-000000000001.0 > grant.json
      python -m worker audit prove --since acme.checkpoint > acme.json
    """
    if (grant is None) == (since is None):
        raise click.UsageError("give a GRANT, or a checkpoint with --since")
    try:
        note = None if since is None else _read_note(since)
        with open_database(read_transaction) as connection:
            if note is not None:
                proof = prove_consistency(connection, note)
            elif grant is not None:
                proof = _prove_grant(connection, grant)
    except InvalidNote as error:
        text = f"{since} is no checkpoint: {error}"
        raise click.BadParameter(text, param_hint="--since") from None
    except NothingToProve as error:
        raise click.BadParameter(str(error), param_hint="--since" if since else "GRANT") from None
    except LogDiffers as error:
        raise click.ClickException(f"NOT PROVEN: {error}.") from None
    click.echo(json.dumps(proof, indent=2, ensure_ascii=False))


def _prove_grant(connection: Connection, grant: GrantName) -> dict[str, Any]:
    tenant_ids = None if grant.tenant is None else find_trees(connection, grant.tenant, "GRANT")
    return prove_grant(connection, grant.batch_id, grant.item_number, tenant_ids)


def _read_note(path: str) -> str:
    """Read a signed note. Raises InvalidNote."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_NOTE_BYTES + 1)
        else:
            with Path(path).open("rb") as stream:
                data = stream.read(MAX_NOTE_BYTES + 1)
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidNote("it is not text") from None
    except OSError as error:
        raise InvalidNote(f"it cannot be read: {error.strerror}") from None
