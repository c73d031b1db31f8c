"""Imports access logs: records the downloads in their lines."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO

from sqlalchemy.exc import DataError

from worker.context import Context
from worker.core.uses.access_log import MAX_LINE_BYTES, read_line
from worker.core.uses.reports import UseReport
from worker.db.engine import read_transaction, write_transaction
from worker.db.uses.log_imports import NOTHING, ImportedPart, read_imported, write_imported
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
    """

    logs: int = 0
    imported_before: int = 0
    lines: int = 0
    downloads: int = 0
    known: int = 0
    unfinished: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)


class LogImporter:
    """Imports logs one after another, and counts what they contain.

    It may be killed at any time: what it stored of its progress is skipped the next time, and what
    it recorded beyond that is recognised.
    """

    def __init__(self, context: Context, on_lines: Callable[[int], None]) -> None:
        self._context = context
        self._on_lines = on_lines
        self.result = ImportResult()

    def run(self, sources: Iterable[LogSource]) -> None:
        """Import what is new of each log. Raises Transient, Malformed and OSError."""
        for source in sources:
            self._import(source)

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
        position, lines = stream.tell(), 0
        for line, length, is_finished in _read_lines(stream):
            if source.may_grow and not is_finished:
                self.result.unfinished += 1
                break
            position, lines = position + length, lines + 1
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
