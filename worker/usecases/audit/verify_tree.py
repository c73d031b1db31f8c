"""Verifies the tree of one tenant: its leaves give its head, and the roots of its checkpoints."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from worker.core.tree.merkle import RightEdge
from worker.db.tree.log_readers import LogReader
from worker.db.tree.stored_rows import LEAF
from worker.db.tree.stored_values import WrongValue, read_row
from worker.usecases.audit.problems import Found, Problem

# The columns that identify the rows of each kind of leaf: batch and chunk number, reference.
_SHAPES = {
    "batch": (True, True, False),
    "chunk": (True, True, False),
    "reissue": (True, True, True),
    "cancellation": (False, False, True),
    "config": (False, False, True),
    "prune": (False, False, True),
}


class StoredHead(NamedTuple):
    """The head of a tenant's tree as it is stored, unchecked."""

    tenant: str
    size: Any
    edge: Any


class TreeResult(NamedTuple):
    """What the leaves of a tree give.

    roots are those of the checkpoints' sizes. broken is a problem of leaves or of the head as a
    whole, problem one of a single leaf; both are None if the leaves give the head.
    """

    tenant: str
    leaves: int
    roots: dict[int, bytes]
    problem: Problem | None = None
    broken: Problem | None = None


def check_tree(reader: LogReader, head: StoredHead, sizes: Sequence[int]) -> TreeResult:
    """Verify the leaves of a tree; sizes are those of its checkpoints."""
    tenant, roots = head.tenant, dict[int, bytes]()
    edge = RightEdge(0, ())
    wanted = set(sizes)
    try:
        stored = _read_head(head)
        for leaf_hash in _leaf_hashes(reader, tenant, stored.size):
            edge = edge.append(leaf_hash)
            if edge.size in wanted:
                roots[edge.size] = edge.root()
        _check_end(reader, edge, stored, tenant)
    except Found as found:
        return TreeResult(tenant, edge.size, roots, problem=found.problem)
    return TreeResult(tenant, edge.size, roots, broken=_compare_edges(edge, stored, tenant))


def _read_head(head: StoredHead) -> RightEdge:
    try:
        if not isinstance(head.size, int) or not isinstance(head.edge, bytes):
            raise ValueError
        return RightEdge.from_bytes(head.size, head.edge)
    except ValueError:
        text = "the edge is not that of a tree of this size"
        raise Found(Problem("tree_heads", text, tenant=head.tenant)) from None


def _leaf_hashes(reader: LogReader, tenant: str, size: int) -> Iterator[bytes]:
    names = ", ".join(LEAF)
    statement = (
        f"SELECT {names} FROM leaves WHERE tenant = ? AND leaf_number < ? ORDER BY leaf_number"  # noqa: S608 - no value
    )
    expected = 0
    for block in reader.stream(statement, tenant, size):
        for row in block:
            batch_number, chunk_number, _, number, kind, reference, leaf_hash = row
            if number != expected:
                place = {"tenant": tenant, "number": expected}
                raise Found(Problem("leaves", "is missing")._replace(**place))
            shape = (batch_number is not None, chunk_number is not None, reference is not None)
            if _SHAPES.get(kind) != shape or len(leaf_hash) != 32 or type(leaf_hash) is not bytes:
                raise Found(_wrong_leaf(row))
            expected += 1
            yield leaf_hash


def _wrong_leaf(row: tuple[Any, ...]) -> Problem:
    place = {"tenant": row[2], "number": row[3]}
    try:
        values = read_row(LEAF, row)
    except WrongValue as error:
        return Problem.of_value("leaves", error, **place)
    if values["kind"] not in _SHAPES:
        return Problem("leaves", "is unknown", column="kind")._replace(**place)
    return Problem("leaves", "names its rows as no leaf of its kind does")._replace(**place)


def _check_end(reader: LogReader, edge: RightEdge, stored: RightEdge, tenant: str) -> None:
    if edge.size < stored.size:
        place = {"number": edge.size, "last_number": stored.size - 1, "tenant": tenant}
        raise Found(Problem("leaves", "is missing")._replace(**place))
    later = reader.fetch(
        "SELECT min(leaf_number), max(leaf_number) FROM leaves "
        "WHERE tenant = ? AND (leaf_number >= ? OR leaf_number < 0)",
        *(tenant, stored.size),
    )
    if later[0][0] is not None:
        first, last = later[0]
        text = f"is not in the tree, which has {stored.size} leaves"
        raise Found(Problem("leaves", text, tenant=tenant, number=first, last_number=last))


def _compare_edges(edge: RightEdge, stored: RightEdge, tenant: str) -> Problem | None:
    """Return the first complete subtree whose leaves differ from the head, as a problem."""
    first = 0
    exponents = [n for n in reversed(range(edge.size.bit_length())) if edge.size >> n & 1]
    for exponent, found, expected in zip(exponents, edge.hashes, stored.hashes, strict=True):
        if found != expected:
            text = "differ from the head of the tree"
            last = first + 2**exponent - 1
            return Problem("leaves", text, tenant=tenant, number=first, last_number=last)
        first += 2**exponent
    return None


def read_heads(reader: LogReader, tenants: tuple[str, ...]) -> list[StoredHead]:
    """Read the heads of trees, of all tenants or of those with the given ids.

    A tenant that has leaves and no head is listed with an empty tree.
    """
    heads = [StoredHead(*row) for row in reader.fetch("SELECT tenant, size, edge FROM tree_heads")]
    known = {head.tenant for head in heads}
    heads += [StoredHead(t, 0, b"") for t in _tenants_of_leaves(reader) if t not in known]
    return sorted((head for head in heads if not tenants or head.tenant in tenants), key=str)


def _tenants_of_leaves(reader: LogReader) -> Iterator[str]:
    # One search of the primary key a tenant, and not a scan of all leaves.
    tenant = ""
    while True:
        rows = reader.fetch("SELECT min(tenant) FROM leaves WHERE tenant > ?", tenant)
        tenant = rows[0][0]
        if tenant is None:
            return
        yield tenant
