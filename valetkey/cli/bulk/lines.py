"""The lines of an input, however long or broken they are."""

import csv
from collections import deque
from collections.abc import Iterator
from hashlib import sha256
from typing import IO

MAX_LINE_BYTES = 1024**2  # bytes


class LineReader:
    """The lines of a stream, as text, each with its end; digest is of all that was read.

    What is not UTF-8 comes out as lone surrogates, which no key may have; what is over 1 MiB of a
    line is left out, so that no line takes more memory than that.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = sha256()
        self._first = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._read()
        if not line:
            raise StopIteration
        if len(line) == MAX_LINE_BYTES:
            self._leave_out_the_rest(line)
        encoding = "utf-8-sig" if self._first else "utf-8"
        self._first = False
        return line.decode(encoding, errors="surrogateescape")

    @property
    def digest(self) -> str:
        """The SHA-256 of what was read, in hexadecimal."""
        return self._digest.hexdigest()

    def _read(self) -> bytes:
        line = self._stream.readline(MAX_LINE_BYTES)
        self._digest.update(line)
        return line

    def _leave_out_the_rest(self, line: bytes) -> None:
        while line and not line.endswith(b"\n"):
            line = self._read()


def csv_records(lines: Iterator[str]) -> Iterator[list[str] | None]:
    """The cells of each CSV record; None for a line that begins one which cannot be read.

    The next record then begins on the line after it: a quote that is never closed spoils its own
    line, and not the rest of the file.
    """
    source = _Retraced(lines)
    table = csv.reader(source, strict=True)
    while True:
        source.begin()
        try:
            yield next(table)
        except StopIteration:
            return
        except csv.Error:
            source.go_back()
            yield None


class _Retraced:
    """Lines that can be read again, from the one after that where a record began."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._taken: list[str] = []
        self._again: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._taken.append(line)
        return line

    def begin(self) -> None:
        self._taken.clear()

    def go_back(self) -> None:
        self._again.extendleft(reversed(self._taken[1:]))
