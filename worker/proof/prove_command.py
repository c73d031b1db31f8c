"""Proofs for auditors, and the command that prints them.

A grant is in the log, or the log continues an older checkpoint: both are verified without this
service.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from sqlalchemy import Connection, select

from models import Batch, Chunk, Leaf
from valetkey.wire.grant_ids import grant_id
from worker.base.database_engine import read_transaction
from worker.cli.database import open_database
from worker.ledger.chunk_items import read_annotations, read_items
from worker.ledger.merkle import CHUNK_KINDS, encode_record, hash_leaf, item_record
from worker.proof.checkpoint_format import MAX_NOTE_BYTES, InvalidNote, open_checkpoint
from worker.proof.checkpoint_rows import (
    StoredCheckpoint,
    known_names,
    leaf_hashes,
    read_last_checkpoint,
    read_trees,
)
from worker.proof.merkle_proofs import (
    WrongProof,
    check_consistency,
    consistency_ranges,
    inclusion_ranges,
    root_of_inclusion,
    subtree_roots,
)
from worker.rules.annotations import SALT_SUFFIX
from worker.shared.command_options import parse_cursor
from worker.shared.grant_names import GrantName
from worker.shared.pages import did_you_mean


def _find_batch(
    connection: Connection, batch_id: str, tenant_ids: Sequence[str] | None
) -> dict[str, Any]:
    """Return the row of the batch with an id; tenant_ids None means any tenant.

    Raises NothingToProve.
    """
    query = select(Batch.__table__).where(Batch.batch_id == batch_id)
    if tenant_ids is not None:
        query = query.where(Batch.tenant.in_(tenant_ids))
    rows = connection.execute(query.limit(2)).mappings().all()
    if not rows:
        raise NothingToProve("the audit log has no batch with this id, or its detail was pruned")
    if len(rows) > 1:
        text = "several tenants have a batch with this id: name one, as in TENANT/BATCH.NUMBER"
        raise NothingToProve(text)
    return dict(rows[0])


def _read_chunk_leaves(connection: Connection, batch_number: int) -> Sequence[Any]:
    """Return the leaves of the chunks of a batch; the kind of the one that opened it is batch."""
    query = select(Leaf.leaf_number, Leaf.kind, Leaf.chunk_number)
    is_of_batch = Leaf.batch_number == batch_number, Leaf.kind.in_(CHUNK_KINDS)
    return connection.execute(query.where(*is_of_batch)).all()


VERSION = 1
_PRUNED = "the rows of the grant were pruned"
_MAKE_CHECKPOINT = "run `python -m worker audit checkpoint` first"


class NothingToProve(Exception):
    """The subject is unknown, or no checkpoint covers it yet."""


class LogDiffers(Exception):
    """The log is not the one that its checkpoint signs."""


def prove_grant(
    connection: Connection, batch_id: str, item_number: int, tenant_ids: Sequence[str] | None
) -> dict[str, Any]:
    """Return the proof that the rows of a grant are in its tenant's log.

    tenant_ids None means any tenant. Raises NothingToProve and LogDiffers.
    """
    batch = _find_batch(connection, batch_id, tenant_ids)
    tenant, total = batch["tenant"], batch["total"]
    if item_number >= total:
        raise NothingToProve(f"the batch has {total:,} items: the last is {total - 1}")
    leaves = _read_chunk_leaves(connection, batch["batch_number"])
    chunk_number, position = divmod(item_number, batch["chunk_size"])
    leaf = next((leaf for leaf in leaves if leaf.chunk_number == chunk_number), None)
    opener = next((leaf for leaf in leaves if leaf.kind == "batch"), None)
    if leaf is None or opener is None:
        raise NothingToProve(
            "no leaf covers this item: its chunk is not decided yet, or the service did not write"
            " its row (`python -m worker audit verify`)"
        )
    last_leaf = max(leaf.leaf_number, opener.leaf_number)
    checkpoint = _newest_checkpoint(connection, tenant, last_leaf)
    proofs = [_prove_leaf(connection, checkpoint, batch, leaf, position)]
    if opener != leaf:
        proofs.append(_prove_leaf(connection, checkpoint, batch, opener, None))
    return {
        "proof": "inclusion",
        "version": VERSION,
        "tenant": tenant,
        "grant": grant_id(batch_id, item_number),
        "checkpoint": checkpoint.note,
        "leaves": proofs,
    }


def prove_consistency(connection: Connection, note: str) -> dict[str, Any]:
    """Return the proof that the newest checkpoint continues an older one, given as a signed note.

    Raises InvalidNote, NothingToProve and LogDiffers.
    """
    old, tenant_id = open_checkpoint(note)
    checkpoint = read_last_checkpoint(connection, tenant_id)
    if checkpoint is None:
        raise NothingToProve(f"the audit log has no checkpoint of {old.origin}")
    new, _ = open_checkpoint(checkpoint.note)
    if old.origin != new.origin:
        text = f"it is a checkpoint of another log: {old.origin}, and not {new.origin}"
        raise NothingToProve(text)
    if old.size > new.size:
        raise LogDiffers(
            f"it signs {old.size:,} leaves, and the newest checkpoint of this database"
            f" {new.size:,}: leaves were removed, or this is an older copy"
        )
    path = _subtree_roots(connection, checkpoint, consistency_ranges(old.size, new.size))
    try:
        check_consistency(old.size, old.root, new.size, new.root, path)
    except WrongProof:
        raise LogDiffers(
            f"the log of {tenant_id} does not continue it: the log was rewritten, unless the"
            " signature of the file is wrong"
        ) from None
    return {
        "proof": "consistency",
        "version": VERSION,
        "tenant": tenant_id,
        "since": note,
        "checkpoint": checkpoint.note,
        "path": _encode(path),
    }


def _newest_checkpoint(
    connection: Connection, tenant_id: str, leaf_number: int
) -> StoredCheckpoint:
    checkpoint = read_last_checkpoint(connection, tenant_id)
    if checkpoint is None:
        raise NothingToProve(f"the log of {tenant_id} has no checkpoint: {_MAKE_CHECKPOINT}")
    if leaf_number >= checkpoint.size:
        text = f"the grant is newer than the newest checkpoint of {tenant_id}: {_MAKE_CHECKPOINT}"
        raise NothingToProve(text)
    return checkpoint


_Record = tuple[bytes, Mapping[str, Any]]
"""A record, and the columns that have its texts."""


def _read_records(
    connection: Connection, batch: Mapping[str, Any], leaf: Any
) -> tuple[list[_Record], list[_Record]]:
    """Return the records of the items that a chunk's leaf covers, and those after them."""
    batch_number, first = batch["batch_number"], leaf.chunk_number * batch["chunk_size"]
    is_chunk = Chunk.batch_number == batch_number, Chunk.chunk_number == leaf.chunk_number
    chunk = connection.execute(select(Chunk.__table__).where(*is_chunk)).mappings().first()
    if chunk is None:
        raise NothingToProve(_PRUNED)
    numbers = range(first, first + batch["chunk_size"])
    annotations = read_annotations(connection, batch_number, numbers)
    names = {"tenant": batch["tenant"], "batch_id": batch["batch_id"]}
    try:
        items = list[_Record]()
        for item in read_items(connection, batch_number, numbers):
            own = annotations.get(item.item_number)
            items.append((item_record(item, own), {} if own is None else own._asdict()))
        others: list[_Record] = [(encode_record("chunk", dict(chunk), **names), {})]
        if leaf.kind == "batch":
            others.append((encode_record("batch", batch), batch))
    except ValueError as error:  # of a value that the service does not write
        text = f"rows or leaves were changed: {error} (`python -m worker audit verify` says which)"
        raise LogDiffers(text) from None
    return items, others


def _prove_leaf(
    connection: Connection,
    checkpoint: StoredCheckpoint,
    batch: Mapping[str, Any],
    leaf: Any,
    item: int | None,
) -> dict[str, Any]:
    """Prove the records of a chunk, its batch if it is in the leaf, and the item at a position."""
    items, others = _read_records(connection, batch, leaf)
    if item is not None and item >= len(items):
        raise NothingToProve(_PRUNED)
    records, number = [*items, *others], leaf.leaf_number
    positions = [*([] if item is None else [item]), *range(len(items), len(records))]
    path = _subtree_roots(connection, checkpoint, inclusion_ranges(number, checkpoint.size))
    hashes = [hash_leaf(record) for record, _ in records]
    (root,) = subtree_roots([range(len(hashes))], hashes)
    if root_of_inclusion(hash_leaf(root), number, checkpoint.size, path) != checkpoint.root:
        raise LogDiffers(
            f"leaf {number} of {checkpoint.tenant} is not the one that the checkpoint signs:"
            " rows or leaves were changed (`python -m worker audit verify` says which)"
        )
    return {
        "leaf": number,
        "path": _encode(path),
        "records": len(records),
        "proven": [
            {
                "position": position,
                "record": records[position][0].decode(),
                "texts": _openings(records[position][1]),
                "path": _encode(subtree_roots(inclusion_ranges(position, len(hashes)), hashes)),
            }
            for position in positions
        ],
    }


def _openings(columns: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the texts to which a record has commitments, with their salts, unless erased."""
    return {
        name: {"text": text, "salt": columns[name + SALT_SUFFIX].hex()}
        for name, text in columns.items()
        if text is not None and name + SALT_SUFFIX in columns
    }


def _subtree_roots(
    connection: Connection, checkpoint: StoredCheckpoint, ranges: list[range]
) -> list[bytes]:
    hashes = leaf_hashes(connection, checkpoint.tenant, 0, checkpoint.size)
    try:
        return subtree_roots(ranges, hashes)
    except ValueError:
        raise LogDiffers(
            f"leaves of {checkpoint.tenant} are missing that its checkpoint signs"
        ) from None


def _encode(hashes: list[bytes]) -> list[str]:
    return [base64.b64encode(each).decode() for each in hashes]


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
        with click.open_file(path, "rb") as stream:
            data: bytes = stream.read(MAX_NOTE_BYTES + 1)
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidNote("it is not text") from None
    except OSError as error:
        raise InvalidNote(f"it cannot be read: {error.strerror}") from None
