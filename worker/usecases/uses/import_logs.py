"""Imports access logs: records the downloads in their lines."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO

from sqlalchemy.exc import DataError

from worker.context import Context
from worker.core.uses.access_log import MAX_LINE_BYTES, is_log_line, read_line
from worker.core.uses.reports import UseReport
from worker.db.engine import read_transaction, write_transaction
from worker.db.uses.log_imports import NOTHING, ImportedPart, read_imported, write_imported
from worker.errors import Malformed
from worker.usecases.uses.log_sources import LogSource
from worker.usecases.uses.record import record_uses

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

    def run(self, source: LogSource) -> None:
        """Import what is new of a log. Raises Transient; any other problem concerns only this log.

        Files are rotated and removed meanwhile: that is no failure.
        """
        try:
            self._import(source)
        except FileNotFoundError:
            self._on_problem(source.name, "skipped, because it was removed meanwhile")
        except (Malformed, OSError, EOFError, zlib.error) as error:
            self.fail(source.name, error)

    def fail(self, name: str, error: Exception) -> None:
        """Count a log or a source that cannot be read, and report why."""
        self.result.failed += 1
        self._on_problem(name, _describe(error))

    def _import(self, source: LogSource) -> None:
        with read_transaction(self._context.engine) as connection:
            imported = read_imported(connection, source.name)
        mark = source.mark()
        if not source.continues(imported.mark):
            imported = NOTHING
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
        for line, length, is_finished in _read_lines(stream):
            if source.may_grow and not is_finished:
                self.result.unfinished += 1
                break
            position, lines = position + length, lines + 1
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
            self.fail(source.name, Malformed("no line looks like one of an access log"))
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


def _read_lines(stream: IO[bytes]) -> Iterator[tuple[bytes, int, bool]]:
    """Yield each line with its length, and true if it is finished.

    Of a line that is too long only the start is yielded: what follows would be read as a line of
    its own, which its client could have written.
    """
    while line := stream.readline(MAX_LINE_BYTES + 1):
        length, part = len(line), line
        while len(part) > MAX_LINE_BYTES and not part.endswith(b"\n"):
            part = stream.readline(MAX_LINE_BYTES + 1)
            length += len(part)
        yield line, length, part.endswith(b"\n")
