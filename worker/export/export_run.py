"""Writes an export in its format to a file that is named when complete, and a journal to resume it.

The text of what a chunk's items share is made once; a row then is one f-string. In OCSF, each item
is an event of the class API Activity (6003): events have no category of their own for signed links,
and this class has an actor, a call and its resources.
"""

import fcntl
import json
import os
import stat
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from errno import EEXIST
from hashlib import sha256
from json.encoder import encode_basestring_ascii as quote
from pathlib import Path
from time import monotonic
from typing import IO, Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from valetkey.cli.atomic_output import partial_path
from valetkey.cli.journal import journal_path, write_private
from valetkey.units import format_utc
from worker.audit.audit_rows import (
    Bound,
    ChunkHead,
    ChunkItems,
    GrantRecord,
    StreamPosition,
    stream_blocks,
)
from worker.audit.grant_filters import ISSUED, GrantFilter
from worker.proof.checkpoint_format import names_a_tree
from worker.rules.annotations import ANNOTATION_FIELDS
from worker.shared.output import format_csv_cell


def format_csv(block: list[ChunkItems]) -> str:
    """Format a block as CSV, without a heading.

    A cell that a spreadsheet might run as a formula gets an apostrophe in front.
    """
    # Not the module csv, which on Python 3.11 does not quote a carriage return.
    lines: list[str] = []
    for head, items in block:
        shared = ",".join(format_csv_cell(text or "") for text in _shared_texts(head).values())
        expires_at, batch_id = format_utc(head.expires_at), format_csv_cell(head.batch_id)
        lines += [
            f"{shared},{format_csv_cell(key)},{format_csv_cell(code) if code else ISSUED},"
            f"{'' if code else expires_at},{batch_id}.{number}\n"
            for _, number, key, code in items
        ]
    return "".join(lines)


def format_json_lines(block: list[ChunkItems]) -> str:
    """Format a block as one JSON object per line, with values as stored."""
    lines: list[str] = []
    for head, items in block:
        shared = json.dumps(_shared_texts(head))[:-1]
        grant = quote(f"{head.batch_id}.")[:-1]
        expires_at = quote(format_utc(head.expires_at))
        lines += [
            f'{shared}, "key": {quote(key)}, "decision": {quote(code or ISSUED)},'
            f' "expires_at": {"null" if code else expires_at}, "grant": {grant}{number}"}}\n'
            for _, number, key, code in items
        ]
    return "".join(lines)


def _shared_texts(head: ChunkHead) -> dict[str, str | None]:
    return {**head.values, "time": format_utc(head.values["time"])}


OCSF_VERSION = "1.6.0"
CLASS_UID = 6003
CATEGORY_UID = 6
_CREATE = 1
_INFORMATIONAL = 1
_SUCCESS, _FAILURE = 1, 2


def format_ocsf(block: list[ChunkItems]) -> str:
    """Format a block as one OCSF event per line."""
    lines = []
    for head, items in block:
        shared = json.dumps(_shared_fields(head))[:-1]
        metadata = json.dumps(_metadata(head))[:-1]
        grant = quote(f"{head.batch_id}.")[:-1]
        bucket = quote(head.values["bucket"])
        allowed = _outcome(_SUCCESS, "Success", ISSUED)
        unmapped = json.dumps(_unmapped(head, is_issued=True))
        refused_unmapped = json.dumps(_unmapped(head, is_issued=False))
        for _, number, key, code in items:
            outcome = allowed if code is None else _outcome(_FAILURE, "Failure", code)
            lines.append(
                f'{shared}, "metadata": {metadata}, "uid": {grant}{number}"}}, "resources": '
                f'[{{"type": "object", "name": {quote(key)}, "namespace": {bucket}}}], '
                f'{outcome}, "unmapped": {unmapped if code is None else refused_unmapped}}}\n'
            )
    return "".join(lines)


def _shared_fields(head: ChunkHead) -> dict[str, Any]:
    values = head.values
    user: dict[str, Any] = {"name": values["requested_by"], "org": {"uid": values["tenant"]}}
    if values["signed_by"] is not None:
        user["credential_uid"] = values["signed_by"]
    return {
        "category_uid": CATEGORY_UID,
        "category_name": "Application Activity",
        "class_uid": CLASS_UID,
        "class_name": "API Activity",
        "activity_id": _CREATE,
        "activity_name": "Create",
        "type_uid": CLASS_UID * 100 + _CREATE,
        "type_name": "API Activity: Create",
        "severity_id": _INFORMATIONAL,
        "severity": "Informational",
        "time": int(values["time"].timestamp() * 1_000),
        "actor": {"user": user},
        "api": {"operation": f"grant.{values['kind']}", "service": {"name": "valetkey"}},
        # The queue names no address of the producer.
        "src_endpoint": {"name": values["requested_by"]},
    }


def _metadata(head: ChunkHead) -> dict[str, Any]:
    return {
        "version": OCSF_VERSION,
        "product": {"name": "valetkey", "vendor_name": "valetkey"},
        "tenant_uid": head.values["tenant"],
        "correlation_uid": head.batch_id,
    }


def _outcome(status_id: int, status: str, code: str) -> str:
    return f'"status_id": {status_id}, "status": "{status}", "status_code": {quote(code)}'


def _unmapped(head: ChunkHead, *, is_issued: bool) -> dict[str, Any]:
    values = {name: head.values[name] for name in ("kind", "key_thumbprint", *ANNOTATION_FIELDS)}
    present: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    if is_issued:
        present["expires_at"] = int(head.expires_at.timestamp() * 1_000)
    return present


FormatName = Literal["csv", "jsonl", "parquet", "ocsf"]

_TEXT_FORMATS: dict[str, Callable[[list[ChunkItems]], str]] = {
    "csv": format_csv,
    "jsonl": format_json_lines,
    "ocsf": format_ocsf,
}


def is_text(name: FormatName) -> bool:
    """Return true if a format is text, which can be continued after any row."""
    return name in _TEXT_FORMATS


_HASHED_BYTES = 2**20


class HashedStream:
    """A stream that is written once, with the SHA-256 and the number of its bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = sha256()
        self.size = 0
        self.closed = False  # pyarrow asks for it

    def write(self, data: bytes) -> int:
        """Write all bytes."""
        self._hash.update(data)
        self.size += len(data)
        self._stream.write(data)
        return len(data)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def read_existing(self) -> None:
        """Add the bytes that the stream contains already."""
        self._stream.seek(0)
        while data := self._stream.read(_HASHED_BYTES):
            self._hash.update(data)
            self.size += len(data)

    @property
    def digest(self) -> str:
        """The SHA-256 of all bytes, in hex."""
        return self._hash.hexdigest()


@contextmanager
def open_writer(
    name: FormatName, stream: HashedStream
) -> Iterator[Callable[[list[ChunkItems]], object]]:
    """Yield the function that writes blocks of rows in a format, below a heading if it has one.

    At the end of the block, what follows the last row is written, unless the block raises.
    """
    if name == "parquet":
        # Imported for this format alone: it takes longer than everything else that a command needs.
        from worker.export.parquet_format import ParquetRowWriter  # noqa: PLC0415

        writer = ParquetRowWriter(stream)
        yield writer.write
        writer.finish()
        return
    if name == "csv" and not stream.size:
        stream.write(f"{','.join(GrantRecord._fields)}\n".encode())
    format_block = _TEXT_FORMATS[name]
    yield lambda block: stream.write(format_block(block).encode())


Number = Annotated[int, Field(ge=0, lt=2**63)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _check_tenant(tenant: str) -> str:
    if not names_a_tree(tenant):
        raise ValueError("no tenant can have this id")
    return tenant


class ExportedTree(BaseModel):
    """A tenant's tree when an export began, and its newest checkpoint when it ended."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    tenant: Annotated[str, AfterValidator(_check_tenant)]
    size: Annotated[Number, Field(gt=0)]
    root: Digest
    checkpoint: str | None


class ExportJournal(BaseModel, frozen=True):
    """The progress of an export: its options, its bound, and what the partial file contains.

    options are as typed. since and until are the times that they meant when the export began, and
    trees are those of that time. position is None before the first chunk.
    """

    options: dict[str, Any]
    since: datetime | None
    until: datetime | None
    bound: Bound
    trees: tuple[ExportedTree, ...]
    position: StreamPosition | None = None
    rows: int = 0
    bytes: int = 0


def load_journal(path: Path) -> ExportJournal | None:
    """Return the journal of an interrupted export to a file, if there is one.

    Raises OSError or ValueError if it cannot be read.
    """
    try:
        return ExportJournal.model_validate_json(journal_path(path).read_bytes())
    except FileNotFoundError:
        return None


def save_journal(path: Path, journal: ExportJournal) -> None:
    """Save the journal of an export to a file. Raises OSError."""
    write_private(journal_path(path), f"{journal.model_dump_json()}\n")


def discard(path: Path) -> None:
    """Remove what an interrupted export has left. Raises OSError, also if it is still running."""
    partial = partial_path(path)
    if partial.exists():
        with partial.open("rb") as stream:
            _lock(stream, partial)
    partial.unlink(missing_ok=True)
    journal_path(path).unlink(missing_ok=True)


@contextmanager
def open_partial(path: Path, journal: ExportJournal) -> Iterator[tuple[IO[bytes], ExportJournal]]:
    """Open the partial file of an export after its journal's bytes, for its owner only.

    If the file is shorter than the journal says, it begins anew. At the end of the block, the file
    gets its name and the journal is removed. If the block raises, both stay. Raises OSError.
    """
    partial = partial_path(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    with os.fdopen(os.open(partial, flags, 0o600), "r+b", buffering=2**20) as stream:
        _check_private(stream, partial)
        _lock(stream, partial)
        if os.fstat(stream.fileno()).st_size < journal.bytes:
            journal = journal.model_copy(update={"position": None, "rows": 0, "bytes": 0})
        stream.truncate(journal.bytes)
        save_journal(path, journal)
        yield stream, journal
        stream.flush()
        os.fsync(stream.fileno())
        partial.replace(path)
    _sync_folder(path.parent)
    journal_path(path).unlink(missing_ok=True)


def _check_private(stream: IO[bytes], path: Path) -> None:
    """Raise FileExistsError for a file that another account has prepared, in a shared folder."""
    status = os.fstat(stream.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or status.st_uid != os.geteuid():
        raise FileExistsError(EEXIST, "another account can read it: remove it", str(path))
    os.fchmod(stream.fileno(), 0o600)


def _lock(stream: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileExistsError(EEXIST, "another export is writing it", str(path)) from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_SECONDS_PER_CHECKPOINT = 5.0


class ExportResult(NamedTuple):
    """The numbers of a finished export. rows_now were written by this run."""

    rows: int
    rows_now: int
    bytes: int
    seconds: float
    sha256: str
    bound: Bound


@dataclass(frozen=True, slots=True)
class Output:
    """An open output: where to write, in which format, from which journal on, and which rows.

    manifest takes the manifest, which is stored after the rows.
    """

    stream: HashedStream
    manifest: IO[bytes]
    format_name: FormatName
    journal: ExportJournal
    grant_filter: GrantFilter
    save_journal: Callable[[ExportJournal], None]


def write_rows(
    connection: Connection, output: Output, on_rows: Callable[[int], None]
) -> ExportResult:
    """Write all rows after the journal's position, and save the journal now and then.

    on_rows is called with the number of rows, matching or not, that each block has gone through.
    """
    start = saved_at = monotonic()
    stream, journal = output.stream, output.journal
    with (
        closing(_read_blocks(connection, output.grant_filter, journal)) as blocks,
        open_writer(output.format_name, stream) as write,
    ):
        for block in blocks:
            write(block)
            rows = journal.rows + sum(len(items) for _, items in block)
            progress = {"position": block[-1].head.position, "rows": rows, "bytes": stream.size}
            journal = journal.model_copy(update=progress)
            sizes = {head.position: head.issued + head.refused for head, _ in block}
            on_rows(sum(sizes.values()))
            if monotonic() - saved_at > _SECONDS_PER_CHECKPOINT:
                stream.flush()
                output.save_journal(journal)
                saved_at = monotonic()
    rows_now = journal.rows - output.journal.rows
    seconds = monotonic() - start
    return ExportResult(journal.rows, rows_now, stream.size, seconds, stream.digest, journal.bound)


def _read_blocks(
    connection: Connection, grant_filter: GrantFilter, journal: ExportJournal
) -> Generator[list[ChunkItems], None, None]:
    """Yield blocks. A server reads the next one while the last one is written."""
    blocks = stream_blocks(connection, grant_filter, journal.bound, journal.position)
    if connection.dialect.name == "sqlite":  # a thread would only wait for this one
        yield from blocks
        return
    with ThreadPoolExecutor(1) as thread:  # its end waits for the server
        following = thread.submit(next, blocks, None)
        while (block := following.result()) is not None:
            following = thread.submit(next, blocks, None)
            yield block
