"""Verifies the tree of one tenant: its leaves give its head, and the roots of its checkpoints."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from worker.ledger.merkle import NO_LEAVES, RightEdge
from worker.proof.checkpoint_format import (
    MAX_NOTE_BYTES,
    InvalidNote,
    VerifierKey,
    open_checkpoint,
    readable_forks,
)
from worker.proof.verify.chunk_check import ChunkCheck
from worker.proof.verify.leaf_check import CHECKS, LeafCheck
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


_CHECKS: tuple[type[LeafCheck], ...] = (ChunkCheck, *CHECKS)
SHAPES = {kind: check.shape() for check in _CHECKS for kind in check.kinds}
"""The columns that identify the rows of each kind of leaf: batch and chunk number, reference."""


class StoredHead(NamedTuple):
    """The head of a tenant's tree as it is stored, unchecked."""

    tenant: str
    size: Any
    edge: Any


class TreeCheck:
    """Verifies the tree of one tenant.

    counts are the numbers of leaves and checkpoints that were verified. problems are those of
    single rows. broken are ranges of leaves that differ from the head, or from a checkpoint: which
    leaf of them it is, or whether it is the head, is unknown.
    """

    def __init__(self, reader: LogReader, head: StoredHead) -> None:
        self._reader = reader
        self._head = head
        self._tenant = head.tenant
        self._sound = 0  # the size of the last checkpoint that agrees
        self._edge = NO_LEAVES
        self.counts = Counter(trees=1)
        self.problems: list[Problem] = []
        self.broken: list[Problem] = []

    def run(self, keys: Sequence[VerifierKey], files: Sequence[KnownCheckpoint]) -> None:
        """Compare the leaves with the head and the checkpoints; files are in order of size.

        Files that a declared fork abandons are left out.
        """
        forks = abandoned_checkpoints(self._reader, self._tenant) if files else {}
        files = [file for file in files if file[:2] not in forks]
        try:
            expected = _read_head(self._head)
            self._append_leaves(
                expected, merge(self._stored_checkpoints(keys), files, key=attrgetter("size"))
            )
        except Found as found:
            self.problems.append(found.problem)
        self.counts["leaves"] = self._edge.size

    def _stored_checkpoints(self, keys: Sequence[VerifierKey]) -> Iterator[KnownCheckpoint]:
        """Yield the stored checkpoints that are sound, in order of size."""
        names = CHECKPOINT.select(self._reader.dialect)
        statement = f"SELECT {names} FROM checkpoints WHERE tenant = ? ORDER BY size"  # noqa: S608 - no value
        signed_at = None
        for row in self._reader.stream(statement, self._tenant):
            try:
                values = CHECKPOINT.read(row)
                checkpoint = _check_values(values, keys)
                if signed_at is not None and values["signed_at"] < signed_at:
                    raise WrongValue("signed_at is before that of a smaller checkpoint")
            except ValueError as error:
                is_value = isinstance(error, WrongValue)
                text = str(error) if is_value else f"cannot be trusted: {error}"
                problem = Problem("checkpoints", text, tenant=self._tenant, number=row[1])
                self.problems.append(problem)
            else:
                signed_at = values["signed_at"]
                yield checkpoint

    def _append_leaves(self, expected: RightEdge, checkpoints: Iterator[KnownCheckpoint]) -> None:
        leaves = self._leaf_hashes(expected.size)
        checkpoint = next(checkpoints, None)
        while True:
            while checkpoint is not None and checkpoint.size <= self._edge.size:
                self._compare(checkpoint)
                checkpoint = next(checkpoints, None)
            leaf_hash = next(leaves, None)
            if leaf_hash is None:
                break
            self._edge = self._edge.append(leaf_hash)
        self._compare_edges(expected)
        if checkpoint is not None:
            size = self._edge.size
            text = f"the tree has {size} leaves, and {checkpoint.name} covers {checkpoint.size}"
            raise self._wrong_leaves(text, size, checkpoint.size - 1)

    def _leaf_hashes(self, size: int) -> Iterator[bytes]:
        """Yield the hashes of a tree with size leaves, which are all that there are."""
        names = LEAF.select(self._reader.dialect)
        statement = f"SELECT {names} FROM leaves WHERE tenant = ? ORDER BY leaf_number"  # noqa: S608 - no value
        expected = 0
        for row in self._reader.stream(statement, self._tenant):
            number = row[1]
            if number != expected and expected < size:
                raise self._wrong_leaves("is missing", expected)
            if expected >= size:
                raise self._wrong_leaves(f"is not in the tree, which has {size} leaves", number)
            try:
                yield _checked_hash(row)
            except WrongValue as error:
                raise self._wrong_leaves(str(error), number) from None
            expected += 1
        if expected < size:
            raise self._wrong_leaves("is missing", expected, size - 1)

    def _wrong_leaves(self, text: str, first: int, last: int | None = None) -> Found:
        problem = Problem("leaves", text, tenant=self._tenant, number=first, last_number=last)
        return Found(problem)

    def _compare_edges(self, stored: RightEdge) -> None:
        """Find the first complete subtree whose leaves differ from the head."""
        first, size = 0, self._edge.size
        exponents = [n for n in reversed(range(size.bit_length())) if size >> n & 1]
        for exponent, found, expected in zip(
            exponents, self._edge.hashes, stored.hashes, strict=True
        ):
            last = first + 2**exponent - 1
            if found != expected:
                wrong = self._wrong_leaves("differ from the head of the tree", first, last)
                self.broken.append(wrong.problem)
                return
            first = last + 1

    def _compare(self, checkpoint: KnownCheckpoint) -> None:
        if self._edge.root() == checkpoint.root:
            self._sound = checkpoint.size
            self.counts["checkpoints"] += not checkpoint.is_tree
        elif not self.broken:
            text = f"differ from {checkpoint.name}"
            found = self._wrong_leaves(text, self._sound, checkpoint.size - 1)
            self.broken.append(found.problem)


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
    if SHAPES.get(values["kind"]) != tuple(name is not None for name in names):
        raise WrongValue("names its rows as no leaf of its kind does")
    leaf_hash: bytes = values["hash"]
    return leaf_hash


def abandoned_checkpoints(reader: LogReader, tenant: str) -> dict[tuple[int, bytes], str]:
    """Return the sizes and roots that declared forks of a tree abandon, and which fork does.

    The leaves of forks are not verified here.
    """
    statement = "SELECT leaf_number, reference FROM leaves WHERE tenant = ? AND kind = 'fork'"
    return {
        (text.size, text.root): f"leaf {number}, which {fork.declared_by} added at"
        f" {fork.declared_at}, declares a fork: {fork.reason}"
        for number, record in reader.fetch(statement, tenant)
        for fork in readable_forks([record])
        for text in fork.heads
    }


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
