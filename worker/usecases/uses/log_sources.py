"""The access logs to import: files, and objects below a prefix of a bucket."""

import gzip
import io
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, cast

from worker.aws.storage_calls import call_storage
from worker.context import Context
from worker.core.kinds.role_session import listing_session
from worker.core.policy.error_responses import ErrorResponse
from worker.core.tenants.config import Bucket
from worker.db.audit.selection.similar_names import did_you_mean
from worker.errors import Malformed

_SESSION = "usage-import"  # the name of a role's session in storage's logs
_MARKED_BYTES = 1_024
_RANGE_BYTES = 2**20
_COMPRESSED = ".gz"


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
        return self.path.suffix != _COMPRESSED

    def mark(self) -> str:
        """Return the mark of its first bytes, with which a rotated file does not begin."""
        return _mark(self._start)

    def continues(self, mark: str) -> bool:
        """Return true if the file still begins with the bytes of this mark, and it has some."""
        length = mark.partition(":")[0]
        return length.isdecimal() and length != "0" and mark == _mark(self._start[: int(length)])

    @property
    def _start(self) -> bytes:
        with self.path.open("rb") as stream:
            return stream.read(_MARKED_BYTES)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open it for reading, uncompressed."""
        if self.may_grow:
            with self.path.open("rb") as stream:
                yield stream
        else:
            with gzip.open(self.path) as unzipped:
                yield cast("IO[bytes]", unzipped)


def _mark(start: bytes) -> str:
    return f"{len(start)}:{sha256(start).hexdigest()}"


@dataclass(frozen=True, slots=True)
class LogObject:
    """An object, which never changes as long as it has the same ETag."""

    client: Any
    bucket: Bucket
    key: str
    etag: str
    size: int

    @property
    def name(self) -> str:
        """The name under which its progress is stored."""
        return f"s3://{self.bucket.name}/{self.key}"

    @property
    def may_grow(self) -> bool:
        """False: its last line is complete, or cut off for ever."""
        return False

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
        if self.key.endswith(_COMPRESSED):
            with gzip.GzipFile(fileobj=stream) as unzipped:
                yield cast("IO[bytes]", unzipped)
        else:
            yield cast("IO[bytes]", stream)


class _Ranges(io.RawIOBase):
    """Reads an object in ranges: none of storage's answers is large."""

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

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + min(len(buffer), _RANGE_BYTES), self._source.size)
        if end <= self._position:
            return 0
        data = self._read_range(self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _read_range(self, start: int, end: int) -> bytes:
        response = call_storage(
            self._get,
            Bucket=self._source.bucket.bucket,
            Key=self._source.key,
            Range=f"bytes={start}-{end - 1}",
            IfMatch=self._source.etag,
        )
        if isinstance(response, ErrorResponse):
            raise Malformed(f"storage refuses to read it: {response.words}")
        data: bytes = response["Data"]
        if len(data) != end - start:
            raise Malformed(f"{self._source.name}: storage sends another range than asked for")
        return data

    def _get(self, **params: Any) -> dict[str, bytes]:
        """Get a range, and read no more: storage may send the whole object, or without end."""
        body = self._source.client.get_object(**params)["Body"]
        with closing(body):
            return {"Data": body.read(_RANGE_BYTES + 1)}


LogSource = LogFile | LogObject


def find_files(path: Path) -> list[LogFile]:
    """Return a file, or the files in a folder and its folders, in the order of their names.

    Raises OSError, and Malformed for a pipe: what was imported of it could not be skipped later.
    """
    if path.is_dir():
        return [LogFile(p) for p in sorted(path.rglob("*")) if p.is_file()]
    if not stat.S_ISREG(path.stat().st_mode):
        raise Malformed("no regular file: write what it contains to one, and import that")
    return [LogFile(path)]


def find_objects(profile: str, prefix: str, context: Context) -> Iterator[LogObject]:
    """Yield the objects below a prefix of a bucket profile, in the order of their keys.

    Raises Malformed if there is no such profile or storage refuses, and Transient.
    """
    bucket = context.config.current().buckets.get(profile)
    if bucket is None:
        hint = did_you_mean(profile, context.config.current().buckets)
        raise Malformed(f"there is no bucket profile {profile!r}{hint}")
    client: Any = context.s3.limited_client(
        bucket, _SESSION, (prefix,), context.now(), listing_session
    )
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
