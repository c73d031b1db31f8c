"""Imports access logs from files and buckets: records the downloads in their lines, each once."""

import gzip
import io
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple, cast

from sqlalchemy import Connection, select
from sqlalchemy.exc import DataError

from models import LogImport
from worker.aws.storage_calls import call_storage
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.inserts import insert_statement
from worker.context import Context
from worker.errors import Malformed
from worker.rules.storage_errors import ErrorResponse
from worker.rules.tenant_config import Bucket
from worker.shared.limited_sessions import listing_session
from worker.shared.pages import did_you_mean
from worker.uses.access_log import MAX_LINE_BYTES, is_log_line, read_line
from worker.uses.use_recorder import record_uses
from worker.uses.use_reports import UseReport


class ImportedPart(NamedTuple):
    """The part of an access log that was imported: its mark, and the bytes from its start."""

    mark: str = ""
    position: int = 0
    is_complete: bool = False


def read_imported(connection: Connection, source: str) -> ImportedPart:
    """Return how much of a log was imported; nothing, if it is new."""
    query = select(LogImport.mark, LogImport.position, LogImport.is_complete)
    row = connection.execute(query.where(LogImport.source == source)).first()
    return ImportedPart(*(row or ()))


def write_imported(connection: Connection, source: str, part: ImportedPart, now: datetime) -> None:
    """Store how much of a log was imported."""
    values = {"source": source, **part._asdict(), "imported_at": now}
    statement = insert_statement(LogImport, connection.dialect.name).values(values)
    connection.execute(statement.on_conflict_do_update(index_elements=["source"], set_=values))


_SESSION = "usage-import"  # the name of a role's session in storage's logs
_MARKED_BYTES = 1_024
_RANGE_BYTES = 2**20
_COMPRESSED = ".gz"
_S3 = "s3://"


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file, which may still grow unless it is compressed."""

    path: Path

    @property
    def name(self) -> str:
        """The name under which its progress is stored, also if it is not UTF-8."""
        return str(self.path.resolve()).encode(errors="backslashreplace").decode()

    @property
    def may_grow(self) -> bool:
        """True if lines may be added later, so that the last one may be unfinished."""
        return not self.path.name.endswith(_COMPRESSED)

    def mark(self, length: int = _MARKED_BYTES) -> str:
        """Return the mark of its first bytes, with which a rotated file does not begin."""
        with self.path.open("rb") as stream:
            start = stream.read(length)
        return f"{len(start)}:{sha256(start).hexdigest()}"

    def continues(self, mark: str) -> bool:
        """Return true if the file still begins with the bytes of this mark, and it has some."""
        length = mark.partition(":")[0]
        return length.isdecimal() and length != "0" and mark == self.mark(int(length))

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open it for reading, uncompressed."""
        with self.path.open("rb") as stream:
            yield _uncompress(self.path.name, stream)


@dataclass(frozen=True, slots=True)
class LogObject:
    """An object, which never changes as long as it has the same ETag."""

    client: Any
    bucket: Bucket
    key: str
    etag: str
    size: int
    may_grow: ClassVar = False  # its last line is complete, or cut off for ever

    @property
    def name(self) -> str:
        """The name under which its progress is stored."""
        return f"{_S3}{self.bucket.name}/{self.key}"

    def mark(self) -> str:
        """Return the ETag."""
        return self.etag[:128]

    def continues(self, mark: str) -> bool:
        """Return true if the object still has this ETag."""
        return mark == self.mark()

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open it for reading, uncompressed. Raises Transient and Malformed, also while reading."""
        stream = io.BufferedReader(_Ranges(self), _RANGE_BYTES)
        yield _uncompress(self.key, cast("IO[bytes]", stream))

    def read_range(self, start: int, end: int) -> bytes:
        """Read some of its bytes. Raises Transient and Malformed."""
        response = call_storage(
            self._get,
            Bucket=self.bucket.bucket,
            Key=self.key,
            Range=f"bytes={start}-{end - 1}",
            IfMatch=self.etag,
        )
        if isinstance(response, ErrorResponse):
            raise Malformed(f"storage refuses to read it: {response.words}")
        data: bytes = response["Data"]
        if len(data) != end - start:
            raise Malformed(f"{self.name}: storage sends another range than asked for")
        return data

    def _get(self, **params: Any) -> dict[str, bytes]:
        """Get a range, and read no more: storage may send the whole object, or without end."""
        with closing(self.client.get_object(**params)["Body"]) as body:
            return {"Data": body.read(_RANGE_BYTES + 1)}


class _Ranges(io.RawIOBase):
    """Reads an object of any size in small ranges, and keeps none of them."""

    def __init__(self, source: LogObject) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}
        self._position = max(base[whence] + offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + min(len(buffer), _RANGE_BYTES), self._source.size)
        if end <= self._position:
            return 0
        data = self._source.read_range(self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _uncompress(name: str, stream: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(stream)) if name.endswith(_COMPRESSED) else stream


LogSource = LogFile | LogObject


def _find_logs(source: str, context: Context) -> Iterable[LogSource]:
    if source.startswith(_S3):
        profile, _, prefix = source.removeprefix(_S3).partition("/")
        return find_log_objects(profile, prefix, context)
    return _find_log_files(Path(source))


def _find_log_files(path: Path) -> list[LogFile]:
    """Return a file, or the files in a folder and its folders, in the order of their names.

    Raises OSError, and Malformed for a pipe: what was imported of it could not be skipped later.
    """
    if path.is_dir():
        return [LogFile(p) for p in sorted(path.rglob("*")) if p.is_file()]
    if not stat.S_ISREG(path.stat().st_mode):
        raise Malformed("no regular file: write what it contains to one, and import that")
    return [LogFile(path)]


def find_log_objects(profile: str, prefix: str, context: Context) -> Iterator[LogObject]:
    """Yield the objects below a prefix of a bucket profile, in the order of their keys.

    Raises Malformed if there is no such profile or storage refuses, and Transient.
    """
    bucket = context.config.current().buckets.get(profile)
    if bucket is None:
        hint = did_you_mean(profile, context.config.current().buckets)
        raise Malformed(f"there is no bucket profile {profile!r}{hint}")
    client: Any = context.s3.client(bucket, _SESSION, (prefix,), context.now(), listing_session)
    params: dict[str, str] = {}
    tokens = {""}
    while True:
        page = call_storage(client.list_objects_v2, Bucket=bucket.bucket, Prefix=prefix, **params)
        if isinstance(page, ErrorResponse):
            raise Malformed(f"storage lists no logs: {page.words}")
        for entry in page.get("Contents", []):
            etag = str(entry.get("ETag", ""))
            yield LogObject(
                client, bucket, str(entry.get("Key", "")), etag, int(entry.get("Size", 0))
            )
        if not page.get("IsTruncated"):
            return
        token = page.get("NextContinuationToken", "")
        if token in tokens:
            raise Malformed("storage lists the same logs again and again")
        tokens.add(token)
        params = {"ContinuationToken": token}


_REPORTS_PER_TRANSACTION = 1_000
_LINES_PER_STEP = 100_000
"""After so many lines without a download, the progress is stored all the same."""


@dataclass(slots=True)
class ImportResult:
    """The numbers of an import.

    skipped counts lines that are no download, and ignored those whose grant does not fit or that
    the database does not accept, both by reason. known are the downloads that were recorded before.
    failed counts logs and sources that could not be read or are none.
    """

    logs: int = 0
    imported_before: int = 0
    lines: int = 0
    downloads: int = 0
    known: int = 0
    unfinished: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)


class LogImporter:
    """Imports logs one after another, and counts what they contain.

    on_lines is called with the number of lines that were read, and on_problem with the name of a
    log and why it cannot be read, or is no log.

    It may be killed at any time: what it stored of its progress is skipped the next time, and what
    it recorded beyond that is recognised.
    """

    def __init__(
        self,
        context: Context,
        on_lines: Callable[[int], None],
        on_problem: Callable[[str, str], None],
    ) -> None:
        self._context = context
        self._on_lines = on_lines
        self._on_problem = on_problem
        self.result = ImportResult()

    def run(self, source: str) -> None:
        """Import what is new of the logs in a file, a folder or s3://PROFILE/PREFIX.

        Raises Transient; any other problem concerns only this source, or one of its logs.
        """
        has_logs = False
        try:
            for log in _find_logs(source, self._context):
                has_logs = True
                self._import_log(log)
        except (Malformed, OSError) as error:
            self._fail(source, error)
        else:
            if not has_logs:
                self._fail(source, Malformed("no logs"))

    def _import_log(self, log: LogSource) -> None:
        """Import what is new of a log. One that was rotated and removed meanwhile is no failure."""
        try:
            self._import(log)
        except FileNotFoundError:
            self._on_problem(log.name, "skipped, because it was removed meanwhile")
        except (Malformed, OSError, EOFError, zlib.error) as error:
            self._fail(log.name, error)

    def _fail(self, name: str, error: Exception) -> None:
        self.result.failed += 1
        self._on_problem(name, _describe(error))

    def _import(self, source: LogSource) -> None:
        with read_transaction(self._context.engine) as connection:
            imported = read_imported(connection, source.name)
        mark = source.mark()
        if not source.continues(imported.mark):
            imported = ImportedPart()
        if imported.is_complete:
            self.result.imported_before += 1
            return
        self.result.logs += 1
        with source.open() as stream:
            stream.seek(imported.position)
            position = self._read(stream, source, mark)
        self._store(source, ImportedPart(mark, position, is_complete=not source.may_grow))

    def _read(self, stream: IO[bytes], source: LogSource, mark: str) -> int:
        """Record the downloads of all lines that follow, and return the position after them."""
        reports: list[UseReport] = []
        start = position = stream.tell()
        lines, is_log = 0, start > 0
        for line, is_finished in _read_lines(stream):
            if source.may_grow and not is_finished:
                self.result.unfinished += 1
                break
            position, lines = stream.tell(), lines + 1
            is_log = is_log or is_log_line(line)
            report = read_line(line)
            if isinstance(report, UseReport):
                reports.append(report)
            else:
                self.result.skipped[report] += 1
            if len(reports) == _REPORTS_PER_TRANSACTION or lines == _LINES_PER_STEP:
                self._record(reports, lines)
                self._store(source, ImportedPart(mark, position))
                reports, lines = [], 0
        self._record(reports, lines)
        if position > start and not is_log:
            self._fail(source.name, Malformed("no line looks like one of an access log"))
        return position

    def _record(self, reports: list[UseReport], lines: int) -> None:
        if reports:
            self._record_reports(reports)
        self.result.lines += lines
        self._on_lines(lines)

    def _record_reports(self, reports: list[UseReport]) -> None:
        """Record reports; without those whose values the database does not accept."""
        try:
            recorded = record_uses(reports, self._context)
        except (DataError, OverflowError, ValueError):
            if len(reports) == 1:
                self.result.ignored["unstorable"] += 1
                return
            middle = len(reports) // 2
            self._record_reports(reports[:middle])
            self._record_reports(reports[middle:])
            return
        self.result.downloads += recorded.total
        self.result.known += recorded.ignored.pop("known", 0)
        self.result.ignored += recorded.ignored

    def _store(self, source: LogSource, part: ImportedPart) -> None:
        with write_transaction(self._context.engine) as connection:
            write_imported(connection, source.name, part, self._context.now())


def _describe(error: Exception) -> str:
    if isinstance(error, Malformed):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"not compressed as its name says, or cut off: {error}"


def _read_lines(stream: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield each line, and true if it is finished.

    Of a line that is too long only the start is yielded: what follows would be read as a line of
    its own, which its client could have written.
    """
    while line := stream.readline(MAX_LINE_BYTES + 1):
        part = line
        while len(part) > MAX_LINE_BYTES and not part.endswith(b"\n"):
            part = stream.readline(MAX_LINE_BYTES + 1)
        yield line, part.endswith(b"\n")
