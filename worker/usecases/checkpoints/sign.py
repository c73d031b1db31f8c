"""Signs the heads of the trees, and stores them as checkpoints."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import reduce
from typing import NamedTuple

from sqlalchemy import Connection

from worker.context import Context
from worker.core.tree.checkpoint_text import CheckpointText, names_a_tree, tree_origin
from worker.core.tree.merkle import RightEdge
from worker.core.tree.proofs import edge_of
from worker.core.tree.signed_note import InvalidNote, verify_note
from worker.db.engine import read_transaction, write_transaction
from worker.db.tree.checkpoints import (
    SIGNING,
    Head,
    Publication,
    StoredCheckpoint,
    edge_of_checkpoint,
    insert_checkpoint,
    leaf_hashes,
    newest_checkpoint_sizes,
    read_head,
    read_heads,
    read_last_checkpoint,
    read_publications,
    store_publication,
)
from worker.usecases.checkpoints.signing_key import CheckpointKeys


class InconsistentLog(Exception):
    """The log does not continue its last checkpoint: rows were changed or removed."""


class SigningResult(NamedTuple):
    """A tenant's newest checkpoint, or the problem for which its head is not signed.

    is_new is false if the tree has not grown since the last checkpoint.
    """

    tenant_id: str
    checkpoint: StoredCheckpoint | None
    is_new: bool = False
    problem: str | None = None


def sign_checkpoints(
    context: Context, keys: CheckpointKeys, tenant_ids: Sequence[str] | None = None
) -> Iterator[SigningResult]:
    """Sign and store the head of each tree that has grown; tenant_ids None means all trees.

    A head that does not continue the tenant's last checkpoint is not signed: a signature would make
    a rewritten log look right. Any number of processes may do this at once. Raises Transient.
    """
    with read_transaction(context.engine) as connection:
        signings = [row for row in read_publications(connection) if row.destination == SIGNING]
        if tenant_ids is None:
            # Those with a checkpoint as well: their tree may have been removed.
            heads = {head.tenant_id for head in read_heads(connection)}
            tenant_ids = sorted(heads | set(newest_checkpoint_sizes(connection)))
    failed = {row.tenant_id for row in signings if row.problem is not None}
    for tenant_id in tenant_ids:
        result = _sign(context, keys, tenant_id)
        if result.problem is not None or tenant_id in failed:
            _store_problem(context, result)
        yield result


def _sign(context: Context, keys: CheckpointKeys, tenant_id: str) -> SigningResult:
    if not names_a_tree(tenant_id):
        return SigningResult(tenant_id, None, problem="no tenant can have this id")
    try:
        with read_transaction(context.engine) as connection:
            last = read_last_checkpoint(connection, tenant_id)
            edge = _continue_log(connection, keys, tenant_id, last)
    except InconsistentLog as error:
        return SigningResult(tenant_id, None, problem=str(error))
    if last is not None and last.size == edge.size:
        return SigningResult(tenant_id, last)
    checkpoint = _sign_edge(keys, tenant_id, edge, context.now())
    with write_transaction(context.engine) as connection:
        is_new = insert_checkpoint(connection, checkpoint)
    return SigningResult(tenant_id, checkpoint, is_new)


def _sign_edge(
    keys: CheckpointKeys, tenant_id: str, edge: RightEdge, now: datetime
) -> StoredCheckpoint:
    root = edge.root()
    text = CheckpointText(tree_origin(keys.signer.name, tenant_id), edge.size, root)
    note = keys.signer.sign(str(text))
    return StoredCheckpoint(tenant_id, edge.size, root, now, note, edge.to_bytes())


def _continue_log(
    connection: Connection, keys: CheckpointKeys, tenant_id: str, last: StoredCheckpoint | None
) -> RightEdge:
    """Return the right edge of a tree, computed from the leaves after its last checkpoint.

    Raises InconsistentLog.
    """
    head = read_head(connection, tenant_id)
    if last is not None:
        _check_stored(keys, last)
    if head is None or (last is not None and head.size < last.size):
        signed, size = last.size if last else 0, head.size if head else 0
        raise InconsistentLog(
            f"the tree has {size:,} leaves, and its last checkpoint signs {signed:,}: leaves were"
            " removed"
        )
    start = 0 if last is None else last.size
    hashes = leaf_hashes(connection, tenant_id, start, head.size)
    if last is None:
        edge = edge_of(hashes)
    else:
        edge = reduce(RightEdge.append, hashes, _edge_at(connection, last))
    _check_head(head, edge, start)
    return edge


def _check_head(head: Head, edge: RightEdge, start: int) -> None:
    if edge.size != head.size:
        raise InconsistentLog(f"leaf {edge.size} is missing, of a tree with {head.size:,} leaves")
    if edge.to_bytes() != head.edge:
        text = f"the head of the tree does not follow from its leaves from {start:,} on"
        raise InconsistentLog(text)


def _check_stored(keys: CheckpointKeys, last: StoredCheckpoint) -> None:
    """Raise InconsistentLog unless this service has signed the last checkpoint as it is stored."""
    stored = f"the last checkpoint, of {last.size:,} leaves,"
    try:
        text = CheckpointText.parse(verify_note(last.note, keys.trusted))
    except InvalidNote as error:
        raise InconsistentLog(f"{stored} is not trusted: {error}") from None
    signers = {tree_origin(key.name, last.tenant_id) for key in keys.trusted}
    if text.origin not in signers or (text.size, text.root) != (last.size, last.root):
        raise InconsistentLog(f"{stored} was changed: its note says something else")


def _edge_at(connection: Connection, last: StoredCheckpoint) -> RightEdge:
    """Return the right edge at the last checkpoint, from its row or else from all its leaves."""
    edge = edge_of_checkpoint(last)
    if edge is None:
        edge = edge_of(leaf_hashes(connection, last.tenant_id, 0, last.size))
    if (edge.size, edge.root()) != (last.size, last.root):
        raise InconsistentLog(
            f"the first {last.size:,} leaves are not those of the last checkpoint: they were"
            " changed or removed"
        )
    return edge


def _store_problem(context: Context, result: SigningResult) -> None:
    size = 0 if result.checkpoint is None else result.checkpoint.size
    row = Publication(SIGNING, result.tenant_id, "", size, result.problem, context.now())
    with write_transaction(context.engine) as connection:
        store_publication(connection, row)
