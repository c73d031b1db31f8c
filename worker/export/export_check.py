"""Compares an exported file with its manifest, and its rows with those of the database."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import file_digest
from io import BytesIO
from os import fstat
from pathlib import Path
from typing import IO, Any

import click
from sqlalchemy import Connection, select

from models import Leaf
from valetkey.units import format_utc
from valetkey.wire.strict_json import parse_json
from worker.audit.audit_rows import (
    COLUMNS,
    ChunkHead,
    GrantRecord,
    read_bound,
    stream_blocks,
    to_records,
)
from worker.audit.grant_filters import GrantFilter, read_filter
from worker.audit.pruned_months import pruned_month
from worker.audit.text_conditions import ERASED, is_match
from worker.export.export_command import export, filter_parameters
from worker.export.export_manifest import (
    ExportManifest,
    UnusableManifest,
    manifest_path,
    read_manifest,
)
from worker.export.export_run import FormatName, HashedStream, open_writer
from worker.ledger.merkle import CHUNK_KINDS
from worker.proof.checkpoint_format import VerifierKey
from worker.proof.verify.stored_rows import Problem
from worker.proof.verify.tree_check import KnownCheckpoint, read_note
from worker.rules.annotations import ANNOTATION_FIELDS
from worker.shared.months import first_moment, parse_month

_MOMENTS = {"--since", "--until", "--tz"}  # the manifest has what they meant
_TEXTS = {"requested_by", "name", *ANNOTATION_FIELDS}  # OCSF calls the requester `name`
_MAX_ROW = 2**20  # bytes
_ROWS_PER_BATCH = 1_000
_LONGEST_COMMIT = timedelta(minutes=15)
_NEXT = "export the same rows again, and compare both files"
Row = dict[str, Any]


class _WrongRow(Exception):
    """A row of the file is not the one that the database has."""


class ExportCheck:
    """A comparison of a file with its manifest, and with the rows of the database.

    counts has the rows that were compared, those that differ by erasures since, those that were not
    compared, because their items were pruned in the database, and those of the database that the
    file lacks and may lack.
    """

    def __init__(self, connection: Connection, path: Path) -> None:
        """Read the manifest. Raises UnusableManifest."""
        self._connection = connection
        self._path = path
        self._manifest = read_manifest(path)
        self._selected = _read_filter(connection, self._manifest)
        self._sizes = {tree.tenant: tree.size for tree in self._manifest.trees}
        self._number = 0
        self.counts = Counter(rows=0, erased=0, pruned=0, absent=0)

    @cached_property
    def _kept_since(self) -> datetime | None:
        month = pruned_month(self._connection, self._selected.since)
        return None if month is None else first_moment(parse_month(month))

    @property
    def tenant(self) -> str | None:
        """The tenant that the export was filtered by."""
        return self._selected.tenant

    def checkpoints(self, keys: Sequence[VerifierKey]) -> Iterator[KnownCheckpoint]:
        """Yield the trees in the manifest, and their checkpoints. Raises UnusableFile."""
        file = manifest_path(self._path)
        for tree in self._manifest.trees:
            root = bytes.fromhex(tree.root)
            yield KnownCheckpoint(tree.size, root, tree.tenant, str(file), is_tree=True)
            if tree.checkpoint is not None:
                yield read_note(tree.checkpoint, keys, file)

    def compare(self) -> list[Problem]:
        """Compare the file, and return what differs. Raises OSError."""
        manifest, texts = self._manifest, list[str]()
        with self._path.open("rb") as file:
            size = fstat(file.fileno()).st_size
            if size != manifest.bytes:
                texts.append(f"it has {size:,} bytes, and its manifest states {manifest.bytes:,}")
            elif file_digest(file, "sha256").hexdigest() != manifest.sha256:
                texts.append("its SHA-256 is not that of its manifest")
            file.seek(0)
            try:
                self._compare_rows(file)
            except _WrongRow as error:
                texts.append(str(error))
        return [Problem(str(self._path), f"{text}: {_NEXT}") for text in texts]

    def summary(self) -> dict[str, Any]:
        """Return what was compared, with a `text` that says it."""
        manifest, counts = self._manifest, self.counts
        selected = [f"{name} {text!r}" for name, text in manifest.options if name not in _MOMENTS]
        if manifest.buckets:
            selected.append(f"of the bucket profiles {', '.join(map(repr, manifest.buckets))}")
        moments = {"since": manifest.since, "until": manifest.until}
        moments["decided before"] = manifest.decided_before
        selected += [f"{name} {format_utc(moment)}" for name, moment in moments.items() if moment]
        text = f"{self._path}: compared {counts['rows']:,} rows, {', '.join(selected)}."
        if counts["erased"]:
            text += f" {counts['erased']:,} of them differ by erasures since."
        if counts["pruned"]:
            text += f" {counts['pruned']:,} rows were not compared: `audit prune` removed them."
        if counts["absent"]:
            text += f" {counts['absent']:,} rows of the database are not in it, and need not be:"
            text += " of other states, erased since, or committed during the export."
        return {"type": "export", "text": text, "file": str(self._path), **counts}

    def _compare_rows(self, file: IO[bytes]) -> None:
        """Go through the rows of both, which have the same order. Raises _WrongRow."""
        rows = self._file_rows(file)
        row = next(rows, None)
        for head, record, expected in self._database_rows():
            if row is not None and _is_row(row, expected):
                self.counts["rows"] += 1
                self.counts["erased"] += row != expected
                row = next(rows, None)
            elif self._is_required(head, record):
                place = "after its last row" if row is None else f"instead of row {self._number:,}"
                raise _WrongRow(
                    f"{place}, the database has grant {record.grant} of tenant {record.tenant}"
                )
            else:
                self.counts["absent"] += 1
        if row is not None:
            raise _WrongRow(f"the database has no row {self._number:,} for its filters")
        if self._number != self._manifest.rows:
            stated = f"its manifest states {self._manifest.rows:,}"
            raise _WrongRow(f"it has {self._number:,} rows, and {stated}")

    def _file_rows(self, file: IO[bytes]) -> Iterator[Row]:
        """Yield the rows of the file that were not pruned in the database. Raises _WrongRow."""
        kept_since = self._kept_since
        try:
            for row in _read_rows(self._manifest.format, file):
                self._number += 1
                if kept_since is not None and _time_of(row) < kept_since:
                    self.counts["pruned"] += 1
                else:
                    yield row
        except Exception:  # noqa: BLE001 - whatever a file contains
            text = f"after {self._number:,} rows, it is not {self._manifest.format} as exported"
            raise _WrongRow(text) from None

    def _database_rows(self) -> Iterator[tuple[ChunkHead, GrantRecord, Row]]:
        """Yield what the database has now for the filters, as the format spells it."""
        manifest, since = self._manifest, self._selected.since
        if self._kept_since is not None:
            since = max(filter(None, (since, self._kept_since)))
        # Not up to the last batch: a manifest that names an earlier one would hide rows.
        bound = read_bound(self._connection, manifest.decided_before)
        # Erasures change texts, and uses change states, so that other rows would match now.
        texts: dict[str, Any] = dict.fromkeys(("requester", *ANNOTATION_FIELDS))
        selected = replace(self._selected, since=since, states=(), **texts)
        for block in stream_blocks(self._connection, selected, bound):
            buffer = BytesIO()
            with open_writer(manifest.format, HashedStream(buffer)) as write:
                write(block)
            buffer.seek(0)
            heads = (head for head, items in block for _ in items)
            rows = _read_rows(manifest.format, buffer)
            for head, record, row in zip(heads, to_records(block), rows, strict=True):
                if all(text == ERASED or is_match(text, its) for text, its in self._texts(record)):
                    yield head, record, row

    def _texts(self, record: GrantRecord) -> Iterator[tuple[str | None, str]]:
        """Yield the texts of a record that the filters select by, with their patterns."""
        if self._selected.requester is not None:
            yield record.requested_by, self._selected.requester
        for name, pattern in self._selected.texts.items():
            yield getattr(record, name), pattern

    def _is_required(self, head: ChunkHead, record: GrantRecord) -> bool:
        """Return true if the file must have a row: its filters selected it at the start."""
        if self._selected.states or any(text == ERASED for text, _ in self._texts(record)):
            return False
        query = select(Leaf.leaf_number).where(
            Leaf.tenant == record.tenant,
            Leaf.batch_number == head.batch_number,
            Leaf.chunk_number == head.chunk_number,
            Leaf.kind.in_(CHUNK_KINDS),
        )
        leaf = self._connection.scalar(query)
        # A chunk that was decided just before the export began can have been committed afterwards.
        is_late = leaf is not None and leaf >= self._sizes.get(record.tenant, 0)
        return not is_late or record.time < self._manifest.decided_before - _LONGEST_COMMIT


def _read_filter(connection: Connection, manifest: ExportManifest) -> GrantFilter:
    """Return the filter of an export, as its command read it. Raises UnusableManifest."""
    known = {option.opts[0]: option.multiple for option in filter_parameters()}
    if any(known.get(name) is not isinstance(its, list) for name, its in manifest.filters.items()):
        raise UnusableManifest("its manifest has filters that `audit export` does not have")
    words = [f"{option}={text}" for option, text in manifest.options if option not in _MOMENTS]
    try:
        with export.make_context("export", words) as context:
            selected = read_filter(connection, context.params)
    except click.UsageError as error:
        raise UnusableManifest(f"a filter in its manifest: {error.format_message()}") from None
    return replace(selected, since=manifest.since, until=manifest.until, buckets=manifest.buckets)


def _read_rows(name: FormatName, stream: IO[bytes]) -> Iterator[Row]:
    """Yield the rows of a format. Raises any Exception for other bytes."""
    if name == "parquet":
        import pyarrow.parquet as pq  # noqa: PLC0415 - as in open_writer

        from worker.export.parquet_format import SCHEMA  # noqa: PLC0415

        file = pq.ParquetFile(stream)
        if file.schema_arrow != SCHEMA:
            raise ValueError("the columns are others")
        for batch in file.iter_batches(_ROWS_PER_BATCH):
            yield from batch.to_pylist()
        return
    size = 0  # of the row: in CSV, quotes can contain line ends

    def read_lines() -> Iterator[str]:
        nonlocal size
        while line := stream.readline(_MAX_ROW):
            size += len(line)
            if size >= _MAX_ROW:
                raise ValueError("a row is too long")
            yield line.decode()

    rows: Iterator[Row]
    if name == "csv":
        if stream.readline(_MAX_ROW).decode().strip() != ",".join(COLUMNS):
            raise ValueError("the heading is another one")
        cells = csv.reader(read_lines(), strict=True)
        rows = (dict(zip(COLUMNS, each, strict=True)) for each in cells)
    else:
        rows = map(parse_json, read_lines())
    for row in rows:
        size = 0
        yield row


def _time_of(row: Row) -> datetime:
    time = row["time"]
    if isinstance(time, int):  # OCSF has milliseconds
        return datetime.fromtimestamp(time / 1_000, UTC)
    return time if isinstance(time, datetime) else datetime.fromisoformat(time)


def _is_row(row: Any, expected: Any) -> bool:
    """Return true if a row is the expected one, except for texts that were erased since."""
    if row == expected:
        return True
    if not isinstance(row, dict) or not isinstance(expected, dict) or row.keys() != expected.keys():
        return False
    return all(
        _is_row(row[name], value)
        or (name in _TEXTS and value == ERASED and isinstance(row[name], str))
        for name, value in expected.items()
    )
