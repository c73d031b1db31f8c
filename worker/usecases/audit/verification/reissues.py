"""Verifies the reissues of a chunk: each gives the hash of its leaf."""

from typing import Any, NamedTuple

from worker.core.tree.records import entry_hash, reissue_record
from worker.db.tree.stored_rows import REISSUE
from worker.db.tree.stored_values import WrongValue, read_row
from worker.usecases.audit.verification.problems import Found, Problem
from worker.usecases.audit.verification.stored import ChunkRows, Leaf, StoredBatch


class CheckedReissues(NamedTuple):
    """The number of reissues that leaves cover, those that none covers, and the first problem."""

    covered: int
    uncovered: list[Problem]
    problem: Found | None


def check_reissues(batch: StoredBatch, rows: ChunkRows) -> CheckedReissues:
    """Verify the reissues of a chunk."""
    leaves: dict[str | None, Leaf] = {}
    uncovered: list[Problem] = []
    try:
        for leaf in rows.leaves:
            if leaf.kind == "reissue":
                _add(batch, leaves, leaf)
        for row in rows.reissues:
            values = _read(batch, rows.number, row)
            covering = leaves.pop(values["fingerprint"].hex(), None)
            if covering is None:
                uncovered.append(batch.problem("reissues", "no leaf covers it", chunk=rows.number))
            else:
                _compare(batch, values, covering)
    except Found as found:
        return CheckedReissues(0, uncovered, found)
    missing = next((_missing(batch, leaf) for leaf in leaves.values()), None)
    return CheckedReissues(len(rows.reissues) - len(uncovered), uncovered, missing)


def _missing(batch: StoredBatch, leaf: Leaf) -> Found:
    text = f"has no row for leaf {leaf.leaf_number}"
    return Found(batch.problem("reissues", text, chunk=leaf.chunk_number), leaf.place)


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
