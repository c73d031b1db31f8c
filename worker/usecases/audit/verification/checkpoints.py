"""Verifies checkpoints: their signatures, and the roots that the leaves must give."""

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from worker.core.tree.checkpoint_text import CheckpointText, tenant_of
from worker.core.tree.merkle import RightEdge
from worker.core.tree.signed_note import InvalidNote, Note, VerifierKey, verify_note
from worker.db.tree.log_readers import LogReader
from worker.db.tree.stored_rows import select_columns
from worker.db.tree.stored_values import WrongValue, binary, digest, instant, number, text
from worker.usecases.audit.verification.problems import Found, Problem

_COLUMNS = ("tenant", "size", "root", "signed_at", "note", "edge")
_MAX_FILE_BYTES = 64 * 1024


class KnownCheckpoint(NamedTuple):
    """The root that a tree must have at a size; file is None for one in the database."""

    size: int
    root: bytes
    tenant: str
    file: str | None = None
    signer: str | None = None

    @property
    def name(self) -> str:
        """Its description in a problem."""
        source = "" if self.file is None else f" in {self.file}"
        signer = "" if self.signer is None else f", signed by {self.signer},"
        return f"the checkpoint of size {self.size}{source}{signer}"


class UnusableFile(Exception):
    """A file is no checkpoint, or none of a trusted key."""


def read_files(paths: Iterable[Path], keys: Sequence[VerifierKey]) -> list[KnownCheckpoint]:
    """Read checkpoints from files, and from all files in folders, in order of their sizes.

    Raises UnusableFile.
    """
    return sorted(
        (_read(file, keys) for path in paths for file in _files(path)), key=attrgetter("size")
    )


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        if not files:
            raise UnusableFile(f"{path} contains no files")
        yield from files
    else:
        yield path


def _read(path: Path, keys: Sequence[VerifierKey]) -> KnownCheckpoint:
    try:
        with path.open("rb") as file:
            note = file.read(_MAX_FILE_BYTES + 1).decode()
        content, signer = _open(note, keys)
    except OSError as error:
        raise UnusableFile(f"{path}: {error.strerror}") from None
    except (InvalidNote, UnicodeDecodeError) as error:
        reason = error if isinstance(error, InvalidNote) else "it is not UTF-8"
        raise UnusableFile(f"{path} is no checkpoint that can be trusted: {reason}") from None
    tenant = _tenant(content, keys)
    if tenant is None:
        raise UnusableFile(f"{path} is the checkpoint of another log: {content.origin}")
    return KnownCheckpoint(content.size, content.root, tenant, str(path), signer)


def _open(note: str, keys: Sequence[VerifierKey]) -> tuple[CheckpointText, str | None]:
    """Return what a note says, and the name of the key whose signature was verified."""
    if not keys:
        return CheckpointText.parse(Note.parse(note).text), None
    return CheckpointText.parse(verify_note(note, keys)), keys[0].name


def _tenant(content: CheckpointText, keys: Sequence[VerifierKey]) -> str | None:
    if not keys:
        return content.origin.rpartition("/")[2]
    found = (tenant_of(content.origin, key.name) for key in keys)
    return next((tenant for tenant in found if tenant is not None), None)


def stored_checkpoints(
    reader: LogReader, tenant: str, keys: Sequence[VerifierKey], problems: list[Problem]
) -> Iterator[KnownCheckpoint]:
    """Yield the checkpoints of a tenant that are sound, in order; add the problems of others."""
    names = select_columns(reader.dialect, _COLUMNS)
    statement = f"SELECT {names} FROM checkpoints WHERE tenant = ? ORDER BY size"  # noqa: S608 - no value
    signed_at = ""
    for block in reader.stream(statement, tenant):
        for row in block:
            try:
                checkpoint = _check_row(row, keys)
                if row[3] < signed_at:
                    raise _wrong(row, "signed_at", "is before that of a smaller checkpoint")
            except Found as found:
                problems.append(found.problem)
            else:
                signed_at = row[3]
                yield checkpoint


def _check_row(row: tuple[Any, ...], keys: Sequence[VerifierKey]) -> KnownCheckpoint:
    tenant, size, root, signed_at, note, edge = row
    try:
        number("size", size)
        digest("root", root)
        instant("signed_at", signed_at)
        content, signer = _open(text("note", note), keys)
    except WrongValue as error:
        raise _wrong(row, error.column, error.problem) from None
    except InvalidNote as error:
        raise _wrong(row, "note", f"cannot be trusted: {error}") from None
    if _tenant(content, keys) != tenant:
        raise _wrong(row, "tenant", f"is not that of its note, {content.origin}")
    if content.size != size:
        raise _wrong(row, "size", f"is not that of its note, {content.size}")
    if content.root != root:
        raise _wrong(row, "root", "is not that of its note")
    if edge is not None and not _has_root(edge, size, root):
        raise _wrong(row, "edge", "is not that of a tree with this root")
    return KnownCheckpoint(size, root, tenant, None, signer)


def _has_root(edge: Any, size: int, root: bytes) -> bool:
    try:
        return RightEdge.from_bytes(size, binary("edge", edge)).root() == root
    except ValueError:
        return False


def _wrong(row: tuple[Any, ...], column: str, problem: str) -> Found:
    size = row[1] if isinstance(row[1], int) else None
    return Found(Problem("checkpoints", problem, tenant=row[0], number=size, column=column))
