"""Verifies the tree of one tenant: its leaves give its head, and the roots of its checkpoints."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from worker.ledger.merkle import RightEdge
from worker.proof.checkpoint_format import (
    MAX_NOTE_BYTES,
    InvalidNote,
    VerifierKey,
    open_checkpoint,
)
from worker.proof.verify.log_reader import LogReader, Row
from worker.proof.verify.stored_rows import CHECKPOINT, LEAF, Found, Problem, WrongValue


class KnownCheckpoint(NamedTuple):
    """The root that a tree must have at a size; file is None for one in the database.

    is_tree marks one that was never signed: the tree as an export found it.
    """

    size: int
    root: bytes
    tenant: str
    file: str | None = None
    signer: str | None = None
    is_tree: bool = False

    @property
    def name(self) -> str:
        """Its description in a problem."""
        source = "" if self.file is None else f" in {self.file}"
        signer = "" if self.signer is None else f", signed by {self.signer},"
        noun = "tree" if self.is_tree else "checkpoint"
        return f"the {noun} of size {self.size}{source}{signer}"


class UnusableFile(Exception):
    """A file is no checkpoint, or none of a trusted key."""


def read_checkpoint_files(
    paths: Iterable[Path], keys: Sequence[VerifierKey]
) -> list[KnownCheckpoint]:
    """Read checkpoints from files, and from all files in folders, in order of their sizes.

    Raises UnusableFile.
    """
    return sorted(
        (_read_file(file, keys) for path in paths for file in _files(path)), key=attrgetter("size")
    )


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        if not files:
            raise UnusableFile(f"{path} contains no files")
        yield from files
    else:
        yield path


def _read_file(path: Path, keys: Sequence[VerifierKey]) -> KnownCheckpoint:
    try:
        with path.open("rb") as file:
            return read_note(file.read(MAX_NOTE_BYTES + 1).decode(), keys, path)
    except OSError as error:
        raise UnusableFile(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UnusableFile(f"{path} is no checkpoint: it is not UTF-8") from None


def read_note(note: str, keys: Sequence[VerifierKey], path: Path) -> KnownCheckpoint:
    """Read the checkpoint of a note in a file. Raises UnusableFile."""
    try:
        return _known_checkpoint(note, keys, str(path))
    except InvalidNote as error:
        raise UnusableFile(f"{path} is no checkpoint that can be trusted: {error}") from None


def _known_checkpoint(
    note: str, keys: Sequence[VerifierKey], file: str | None = None
) -> KnownCheckpoint:
    """Return what a note says, with the name of the key that signed it. Raises InvalidNote."""
    content, tenant = open_checkpoint(note, keys)
    return KnownCheckpoint(content.size, content.root, tenant, file, keys[0].name if keys else None)


def stored_checkpoints(
    reader: LogReader, tenant: str, keys: Sequence[VerifierKey], problems: list[Problem]
) -> Iterator[KnownCheckpoint]:
    """Yield the checkpoints of a tenant that are sound, in order; add the problems of others."""
    names = CHECKPOINT.select(reader)
    statement = f"SELECT {names} FROM checkpoints WHERE tenant = ? ORDER BY size"  # noqa: S608 - no value
    signed_at = None
    for row in reader.stream(statement, tenant):
        try:
            values = CHECKPOINT.read(row)
            checkpoint = _check_values(values, keys)
            if signed_at is not None and values["signed_at"] < signed_at:
                raise WrongValue("signed_at is before that of a smaller checkpoint")
        except ValueError as error:
            text = str(error) if isinstance(error, WrongValue) else f"cannot be trusted: {error}"
            problems.append(Problem("checkpoints", text, tenant=tenant, number=row[1]))
        else:
            signed_at = values["signed_at"]
            yield checkpoint


def _check_values(values: dict[str, Any], keys: Sequence[VerifierKey]) -> KnownCheckpoint:
    """Raise WrongValue unless the row of a checkpoint is that of its note, and InvalidNote."""
    checkpoint = _known_checkpoint(values["note"], keys)
    size, root, tenant, *_ = checkpoint
    if (values["size"], values["root"], values["tenant"]) != (size, root, tenant):
        raise WrongValue(f"its note is of {tenant} with {size} leaves, or has another root")
    edge = values["edge"]
    if edge is not None and RightEdge.from_bytes(size, edge).root() != root:
        raise WrongValue("edge is not that of a tree with this root")
    return checkpoint


# The columns that identify the rows of each kind of leaf: batch and chunk number, reference.
_SHAPES = {
    **dict.fromkeys(("batch", "chunk", "settlement"), (True, True, False)),
    "reissue": (True, True, True),
    **dict.fromkeys(
        ("cancellation", "config", "erasure", "prune", "revocation", "use"), (False, False, True)
    ),
}


class StoredHead(NamedTuple):
    """The head of a tenant's tree as it is stored, unchecked."""

    tenant: str
    size: Any
    edge: Any


class TreeResult(NamedTuple):
    """The numbers of leaves and checkpoints that were verified, and the problems.

    problem is one of a single row. broken are ranges of leaves that differ from the head, or from a
    checkpoint: which leaf of them it is, or whether it is the head, is unknown.
    """

    tenant: str
    counts: Counter[str]
    problems: list[Problem]
    broken: list[Problem]


def check_tree(
    reader: LogReader,
    head: StoredHead,
    keys: Sequence[VerifierKey],
    files: Sequence[KnownCheckpoint],
) -> TreeResult:
    """Verify the leaves of a tree, its head and its checkpoints; files are in order of size."""
    check = _TreeCheck(reader, head.tenant)
    stored = stored_checkpoints(reader, head.tenant, keys, check.problems)
    checkpoints = merge(stored, files, key=attrgetter("size"))
    try:
        check.run(_read_head(head), checkpoints)
    except Found as found:
        check.problems.append(found.problem)
    counts = Counter(trees=1, leaves=check.edge.size, checkpoints=check.checkpoints)
    return TreeResult(head.tenant, counts, check.problems, check.broken)


class _TreeCheck:
    def __init__(self, reader: LogReader, tenant: str) -> None:
        self._reader = reader
        self._tenant = tenant
        self._sound = 0  # the size of the last checkpoint that agrees
        self.edge = RightEdge(0, ())
        self.checkpoints = 0
        self.problems: list[Problem] = []
        self.broken: list[Problem] = []

    def run(self, expected: RightEdge, checkpoints: Iterator[KnownCheckpoint]) -> None:
        """Append all leaves, and compare. Raises Found."""
        checkpoint = next(checkpoints, None)
        while checkpoint is not None and checkpoint.size <= 0:
            self._compare(checkpoint)
            checkpoint = next(checkpoints, None)
        for leaf_hash in self._leaf_hashes(expected.size):
            self.edge = self.edge.append(leaf_hash)
            while checkpoint is not None and checkpoint.size == self.edge.size:
                self._compare(checkpoint)
                checkpoint = next(checkpoints, None)
        different = _compare_edges(self.edge, expected, self._tenant)
        if different is not None:
            self.broken.append(different)
        if checkpoint is not None:
            size = self.edge.size
            text = f"the tree has {size} leaves, and {checkpoint.name} covers {checkpoint.size}"
            raise Found(self._wrong_range(text, size, checkpoint))

    def _leaf_hashes(self, size: int) -> Iterator[bytes]:
        """Yield the hashes of a tree with size leaves, which are all that there are."""
        names = LEAF.select(self._reader)
        statement = f"SELECT {names} FROM leaves WHERE tenant = ? ORDER BY leaf_number"  # noqa: S608 - no value
        expected = 0
        for row in self._reader.stream(statement, self._tenant):
            number = row[1]
            if number != expected and expected < size:
                raise self._wrong_leaf("is missing", expected)
            if expected >= size:
                raise self._wrong_leaf(f"is not in the tree, which has {size} leaves", number)
            try:
                yield _checked_hash(row)
            except WrongValue as error:
                raise self._wrong_leaf(str(error), number) from None
            expected += 1
        if expected < size:
            text = "is missing"
            raise Found(self._wrong_leaf(text, expected).problem._replace(last_number=size - 1))

    def _wrong_leaf(self, text: str, number: int) -> Found:
        return Found(Problem("leaves", text, tenant=self._tenant, number=number))

    def _compare(self, checkpoint: KnownCheckpoint) -> None:
        if self.edge.root() == checkpoint.root:
            self._sound = checkpoint.size
            self.checkpoints += not checkpoint.is_tree
            return
        if self.broken:
            return
        text = f"differ from {checkpoint.name}"
        self.broken.append(self._wrong_range(text, self._sound, checkpoint))

    def _wrong_range(self, text: str, first: int, checkpoint: KnownCheckpoint) -> Problem:
        last = checkpoint.size - 1
        return Problem("leaves", text, tenant=self._tenant, number=first, last_number=last)


def _read_head(head: StoredHead) -> RightEdge:
    try:
        return RightEdge.from_bytes(head.size, head.edge)
    except (TypeError, ValueError, AttributeError):
        text = "the edge is not that of a tree of this size"
        raise Found(Problem("tree_heads", text, tenant=head.tenant)) from None


def _checked_hash(row: Row) -> bytes:
    """Return the hash of a leaf. Raises WrongValue."""
    values = LEAF.read(row)
    names = values["batch_number"], values["chunk_number"], values["reference"]
    if _SHAPES.get(values["kind"]) != tuple(name is not None for name in names):
        raise WrongValue("names its rows as no leaf of its kind does")
    leaf_hash: bytes = values["hash"]
    return leaf_hash


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


def read_heads(reader: LogReader, files: Sequence[KnownCheckpoint] = ()) -> list[StoredHead]:
    """Read the heads of the trees of the selected tenants.

    A tenant that has leaves or checkpoints, and no head, is listed with an empty tree. So is one of
    which only files have checkpoints: everything else may have been removed. Raises Found.
    """
    heads = [StoredHead(*row) for row in reader.fetch("SELECT tenant, size, edge FROM tree_heads")]
    known = {head.tenant for head in heads}
    tenants_of = "SELECT tenant FROM leaves UNION SELECT tenant FROM checkpoints"
    named = {*(row[0] for row in reader.fetch(tenants_of)), *(file.tenant for file in files)}
    if not all(isinstance(tenant, str) for tenant in known | named):
        text = "has a tenant that is no text, here or in another table"
        raise Found(Problem("tree_heads", text))
    heads += [StoredHead(tenant, 0, b"") for tenant in named - known]
    return sorted(head for head in heads if head.tenant in (reader.tenants or [head.tenant]))
