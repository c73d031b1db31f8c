"""The targets of an export: a file, stdout, or an object in a bucket."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import click
from sqlalchemy import Connection

from valetkey.cli.bulk.journal import journal_path
from valetkey.cli.results.atomic_output import check_file_type
from worker import clock
from worker.db.audit.filters import GrantFilter
from worker.db.audit.stream import read_bound
from worker.usecases.audit_export.formats import FormatName, is_text, make_writer
from worker.usecases.audit_export.partial_file import (
    ExportJournal,
    JournalUnreadable,
    discard,
    load_journal,
    open_partial,
    save_journal,
)
from worker.usecases.audit_export.run import HashedStream, RowWriter


class ExportRequest(NamedTuple):
    """The options of an export: options are as typed, filters as parsed."""

    format_name: FormatName
    options: Mapping[str, Any]
    filters: Mapping[str, Any]
    is_forced: bool


@dataclass(frozen=True, slots=True)
class Output:
    """An open output: where to write, from which journal on, and with which filter."""

    stream: HashedStream
    writer: RowWriter
    journal: ExportJournal
    grant_filter: GrantFilter
    save_journal: Callable[[ExportJournal], None]


class Target(Protocol):
    """The place of an export. Its text is how messages call it."""

    def open(
        self, connection: Connection, request: ExportRequest, grant_filter: GrantFilter
    ) -> AbstractContextManager[Output]:
        """Open the output. Raises click.UsageError, and OSError."""

    def describe_rest(self, request: ExportRequest) -> str:
        """Say what an interrupted export has left, and what to do."""


class StdoutTarget:
    """Standard output, which cannot be continued."""

    def __str__(self) -> str:
        return "stdout"

    @contextmanager
    def open(
        self, connection: Connection, request: ExportRequest, grant_filter: GrantFilter
    ) -> Iterator[Output]:
        """Open stdout for bytes."""
        stream = HashedStream(sys.stdout.buffer)
        yield _new_output(connection, request, grant_filter, stream)
        sys.stdout.buffer.flush()

    def describe_rest(self, _request: ExportRequest) -> str:
        """Say that what was printed is not complete."""
        return "what was printed is not complete."


class FileTarget:
    """A file with a private mode. A text in it can be continued."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    @contextmanager
    def open(
        self, connection: Connection, request: ExportRequest, grant_filter: GrantFilter
    ) -> Iterator[Output]:
        """Open the partial file, and continue it if an export with the same options began it."""
        journal = self._load_journal(request)
        if journal is None:
            journal = _new_journal(connection, request, grant_filter)
        else:
            grant_filter = replace(grant_filter, since=journal.since, until=journal.until)
        with open_partial(self._path, journal) as (file, started):
            stream = HashedStream(file)
            stream.read_existing(started.bytes)
            writer = make_writer(request.format_name, stream)
            can_continue = is_text(request.format_name)

            def save(progress: ExportJournal) -> None:
                if can_continue:
                    os.fsync(file.fileno())
                    save_journal(self._path, progress)

            yield Output(stream, writer, started, grant_filter, save)

    def describe_rest(self, request: ExportRequest) -> str:
        """Say which command continues the export."""
        if is_text(request.format_name):
            return "the same command continues the export."
        return "the same command begins the export anew."

    def _load_journal(self, request: ExportRequest) -> ExportJournal | None:
        folder = self._path.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise click.UsageError(f"the folder {folder} does not exist or is not writable")
        try:
            check_file_type(self._path)
        except FileExistsError as error:
            text = f"{self._path} is {error.strerror}: name a file, or - for stdout"
            raise click.BadParameter(text, param_hint="--out") from None
        if request.is_forced:
            discard(self._path)
            return None
        if self._path.exists():
            raise click.UsageError(f"{self._path} exists: name another file, or add --force")
        path = journal_path(self._path)
        try:
            journal = load_journal(self._path)
        except JournalUnreadable:
            raise click.UsageError(
                f"{path} is damaged: add --force to begin the export anew"
            ) from None
        if journal is not None and dict(journal.options) != dict(request.options):
            names = sorted(
                name
                for name in {*journal.options, *request.options}
                if journal.options.get(name) != request.options.get(name)
            )
            raise click.UsageError(
                f"{path} is of an interrupted export with other options ({', '.join(names)}): give"
                " the same options to continue it, or --force to begin anew"
            )
        return journal


class BucketTarget:
    """An object in the bucket of a profile, stored by a multipart upload."""

    def __init__(self, profile: str, key: str) -> None:
        self._profile = profile
        self._key = key

    def __str__(self) -> str:
        return f"s3://{self._profile}/{self._key}"

    @contextmanager
    def open(
        self, connection: Connection, request: ExportRequest, grant_filter: GrantFilter
    ) -> Iterator[Output]:
        """Start the upload. It is completed at the end of the block, or aborted."""
        # Imported for this target alone: boto3 takes long to import.
        from worker.usecases.audit_export.bucket_object import open_object  # noqa: PLC0415

        replaces = request.is_forced
        with open_object(connection, self._profile, self._key, may_replace=replaces) as file:
            yield _new_output(connection, request, grant_filter, HashedStream(file))

    def describe_rest(self, _request: ExportRequest) -> str:
        """Say that nothing is left."""
        return "the upload was aborted, and nothing is stored."


def _new_output(
    connection: Connection,
    request: ExportRequest,
    grant_filter: GrantFilter,
    stream: HashedStream,
) -> Output:
    journal = _new_journal(connection, request, grant_filter)
    writer = make_writer(request.format_name, stream)
    return Output(stream, writer, journal, grant_filter, lambda _: None)


def _new_journal(
    connection: Connection, request: ExportRequest, grant_filter: GrantFilter
) -> ExportJournal:
    now: datetime = clock.now()
    return ExportJournal(
        options=request.options,
        since=grant_filter.since,
        until=grant_filter.until,
        bound=read_bound(connection, now),
    )
