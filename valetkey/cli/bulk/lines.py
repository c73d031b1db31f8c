"""Lines of an input of any length and encoding, and the CSV records in them."""

import csv
from collections import deque
from collections.abc import Iterator
from hashlib import sha256
from typing import IO

MAX_LINE_BYTES = 1024**2


class LineReader:
    """The lines of a stream as text, each with its line ending, and a digest of all bytes read.

    Bytes that are not UTF-8 become lone surrogates, which no key may contain. The part of a line
    beyond 1 MiB is skipped, so that no line takes more memory than that.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = sha256()
        self._is_first_line = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._read_line()
        if not line:
            raise StopIteration
        if len(line) == MAX_LINE_BYTES:
            self._skip_rest_of_line(line)
        encoding = "utf-8-sig" if self._is_first_line else "utf-8"
        self._is_first_line = False
        return line.decode(encoding, errors="surrogateescape")

    @property
    def digest(self) -> str:
        """The SHA-256 of all bytes read so far, in hexadecimal."""
        return self._digest.hexdigest()

    def _read_line(self) -> bytes:
        line = self._stream.readline(MAX_LINE_BYTES)
        self._digest.update(line)
        return line

    def _skip_rest_of_line(self, line: bytes) -> None:
        while line and not line.endswith(b"\n"):
            line = self._read_line()


def csv_records(lines: Iterator[str]) -> Iterator[tuple[int, list[str] | None]]:
    """Yield the line where each CSV record begins, and its cells, or None if it cannot be read.

    After such a record, reading continues with the line after the one where it began: a quote that
    is never closed makes its own line invalid, not the rest of the file.
    """
    source = _RewindableLines(lines)
    records = csv.reader(source, strict=True)
    while True:
        first_line = source.start_record()
        try:
            yield first_line, next(records)
        except StopIteration:
            return
        except csv.Error:
            source.rewind()
            yield first_line, None


class _RewindableLines:
    """Lines that can be read again, from the second line of the current record on."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._line_number = 0
        self._record_lines: list[str] = []
        self._rewound_lines: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._rewound_lines.popleft() if self._rewound_lines else next(self._lines)
        self._line_number += 1
        self._record_lines.append(line)
        return line

    def start_record(self) -> int:
        """Begin a record, and return the number of its first line, counted from 1."""
        self._record_lines.clear()
        return self._line_number + 1

    def rewind(self) -> None:
        self._line_number -= len(self._record_lines) - 1
        self._rewound_lines.extendleft(reversed(self._record_lines[1:]))
