"""Verifies the reissues and the settlement of a chunk: each gives the hash of its leaf."""

from typing import Any

from worker.core.tree.records import entry_hash, reissue_record, settlement_record
from worker.db.tree.stored_rows import REISSUE, SETTLEMENT
from worker.db.tree.stored_values import WrongValue, read_row
from worker.usecases.audit.verification.problems import Found, Problem
from worker.usecases.audit.verification.stored import ChunkRows, Leaf, StoredBatch


def check_reissues(batch: StoredBatch, rows: ChunkRows) -> int:
    """Verify the reissues of a chunk; return their number. Raises Found."""
    leaves: dict[str | None, Leaf] = {}
    for leaf in rows.leaves:
        if leaf.kind == "reissue":
            _add(batch, leaves, leaf)
    for row in rows.reissues:
        values = _read(batch, rows.number, row)
        covering = leaves.pop(values["fingerprint"].hex(), None)
        if covering is None:
            raise Found(batch.problem("reissues", "no leaf covers it", chunk=rows.number))
        _compare(batch, values, covering)
    for leaf in leaves.values():
        text = f"has no row for leaf {leaf.leaf_number}"
        raise Found(batch.problem("reissues", text, chunk=leaf.chunk_number), leaf.place)
    return len(rows.reissues)


def _add(batch: StoredBatch, leaves: dict[str | None, Leaf], leaf: Leaf) -> None:
    place: dict[str, Any] = {"chunk": leaf.chunk_number, "number": leaf.leaf_number}
    if leaf.tenant != batch.tenant:
        text = f"covers a reissue of tenant {batch.tenant}"
        raise Found(batch.problem("leaves", text, **place | {"tenant": leaf.tenant}))
    if leaf.reference in leaves:
        raise Found(batch.problem("leaves", "covers a reissue that another leaf covers", **place))
    leaves[leaf.reference] = leaf


def _read(batch: StoredBatch, chunk: int, row: Any) -> dict[str, Any]:
    # Few logs have reissues, and it imports all messages.
    from worker.core.policy.fingerprints import fingerprint  # noqa: PLC0415

    wrong: WrongValue | None = None
    try:
        values = read_row(REISSUE, row)
    except WrongValue as error:
        wrong = error
    else:
        if fingerprint(values["digests"].hex()) == values["fingerprint"]:
            return values
        wrong = WrongValue("fingerprint", "does not identify the digests")
    problem = Problem.of_value("reissues", wrong, tenant=batch.tenant, batch=batch.id)
    raise Found(problem._replace(chunk=chunk))


def _compare(batch: StoredBatch, values: dict[str, Any], leaf: Leaf) -> None:
    if entry_hash([reissue_record(batch.tenant, batch.id, values)]) != leaf.hash:
        text = f"differs from what leaf {leaf.leaf_number} covers"
        problem = batch.problem("reissues", text, chunk=leaf.chunk_number)
        raise Found(problem, leaf.place)


def check_settlement(batch: StoredBatch, rows: ChunkRows, *, is_pruned: bool) -> bool:
    """Verify a chunk's settlement; return true if there is one. Raises Found.

    That of a pruned chunk may have been removed.
    """
    leaves = [leaf for leaf in rows.leaves if leaf.kind == "settlement"]
    place: dict[str, Any] = {"tenant": batch.tenant, "batch": batch.id, "chunk": rows.number}
    if len(leaves) > 1:
        text = f"covers a settlement that leaf {leaves[0].leaf_number} covers as well"
        raise Found(Problem("leaves", text, number=leaves[1].leaf_number)._replace(**place))
    if not leaves:
        if rows.settlement is None:
            return False
        raise Found(Problem("settlements", "no leaf covers it")._replace(**place))
    leaf = leaves[0]
    if leaf.tenant != batch.tenant:
        text = f"covers a settlement of tenant {batch.tenant}"
        changed = place | {"tenant": leaf.tenant, "number": leaf.leaf_number}
        raise Found(Problem("leaves", text)._replace(**changed))
    if rows.settlement is None:
        if is_pruned:
            return False
        text = f"has no row, but leaf {leaf.leaf_number} covers it"
        raise Found(Problem("settlements", text)._replace(**place), leaf.place)
    try:
        values = read_row(SETTLEMENT, rows.settlement)
    except WrongValue as error:
        raise Found(Problem.of_value("settlements", error, **place)) from None
    if entry_hash([settlement_record(batch.id, values)]) != leaf.hash:
        text = f"differs from what leaf {leaf.leaf_number} covers"
        raise Found(Problem("settlements", text)._replace(**place), leaf.place)
    return True
