"""The formats of exports."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from worker.db.audit.stream import ChunkItems
from worker.usecases.audit_export.ocsf import format_ocsf
from worker.usecases.audit_export.run import HashedStream, RowWriter, TextWriter
from worker.usecases.audit_export.text_formats import CSV_HEADING, format_csv, format_json_lines

FormatName = Literal["csv", "jsonl", "parquet", "ocsf"]


class _TextFormat(NamedTuple):
    format_block: Callable[[list[ChunkItems]], str]
    heading: str = ""


_TEXT_FORMATS: dict[str, _TextFormat] = {
    "csv": _TextFormat(format_csv, CSV_HEADING),
    "jsonl": _TextFormat(format_json_lines),
    "ocsf": _TextFormat(format_ocsf),
}


def is_text(name: FormatName) -> bool:
    """Tell whether a format is text, which can be continued after any row."""
    return name in _TEXT_FORMATS


def make_writer(name: FormatName, stream: HashedStream) -> RowWriter:
    """Return the writer of a format, and write its heading if the stream is empty."""
    if name == "parquet":
        # Imported for this format alone: it takes longer than everything else that a command needs.
        from worker.usecases.audit_export.parquet import ParquetRowWriter  # noqa: PLC0415

        return ParquetRowWriter(stream)
    return TextWriter(stream, *_TEXT_FORMATS[name])
