"""Uploads the file of `valetkey multipart`, and aborts or keeps an upload that fails."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from valetkey import multipart_storage
from valetkey.cli.printable import escape_unprintable
from valetkey.cli.results import output
from valetkey.cli.upload_state import StateFile, UploadState
from valetkey.client import Client
from valetkey.errors import StorageError, ValetkeyError
from valetkey.handles import MultipartHandle
from valetkey.multipart_upload import MultipartUploader
from valetkey.units import format_duration, format_size
from valetkey.wire.replies import Grant

_MAX_CANCEL_WAIT = 10.0  # seconds: somebody who pressed Ctrl-C waits for it


def check_resumable(
    state: UploadState, state_file: StateFile, file: Path, request: Mapping[str, Any]
) -> None:
    """Raise click.UsageError if the upload has expired, or is of another request or file."""
    anew = f"remove {state_file.path} and run the command without --resume to start anew"
    if state.expires_at <= datetime.now(UTC):
        raise click.UsageError(
            f"the unfinished upload expired at {_format_time(state.expires_at)}: {anew}"
        )
    names = sorted(request.keys() | state.request.keys())
    changed = next((n for n in names if request.get(n) != state.request.get(n)), None)
    if changed is not None:
        raise click.UsageError(
            f"the unfinished upload has another {escape_unprintable(changed)}: --resume needs the "
            f"same options; or {anew}"
        )
    change = state.find_change(file)
    if change is not None:
        raise click.UsageError(f"{file} {change}, so its upload cannot be continued: {anew}")


class FileUpload:
    """The upload of one file by a requested multipart upload."""

    def __init__(
        self, client: Client, upload: MultipartHandle, file: Path, options: Mapping[str, Any]
    ) -> None:
        self._client = client
        self._upload = upload
        self._file = file
        self._options = options
        self._state_file = StateFile(file)

    def start(self, request: dict[str, Any]) -> None:
        """Upload the whole file; with --keep, save the state from which it can be resumed."""
        grant = self._upload.result(self._options["timeout"])
        output.print_quota_warnings(self._upload.batch.quotas)
        state = None
        if self._options["keep"] and grant.multipart is not None:
            with self._clean_up_failure(grant, None):  # the disk may be full
                state = self._state_file.start(request, self._file, grant, grant.multipart)
        self._run(grant, state)

    def resume(self, state: UploadState) -> None:
        """Upload the parts that are missing."""
        self._run(self._upload.result(self._options["timeout"]), state)

    def _run(self, grant: Grant, state: UploadState | None) -> None:
        size, stored_before = self._file.stat().st_size, state.stored_bytes if state else 0
        if stored_before:
            total = f"{format_size(stored_before)} of {format_size(size)}"
            click.echo(f"resuming: {total} are stored already", err=True)
        began = time.monotonic()
        with (
            self._clean_up_failure(grant, state),
            _progress_bar(size, stored_before) as advance,
        ):
            MultipartUploader(
                self._upload,
                self._file,
                parallel=self._options["parallel"],
                timeout=self._options["timeout"],
                stored_parts=state.parts if state else {},
                on_stored=partial(self._state_file.add, state) if state else lambda _n, _p: None,
                on_progress=advance,
            ).run()
        if state:
            self._state_file.remove()
        click.echo(_summary(grant, size, stored_before, time.monotonic() - began), err=True)
        click.echo(grant.id)

    @contextmanager
    def _clean_up_failure(self, grant: Grant, state: UploadState | None) -> Iterator[None]:
        """If the block fails, keep the upload if it has a state, else abort it, and say so."""
        try:
            yield
        except BaseException as error:  # KeyboardInterrupt included
            if state is None:
                click.echo(self._abort(grant), err=True)
            else:
                self._state_file.save(state)
                click.echo(_describe_kept_upload(state, self._state_file), err=True)
            if isinstance(error, StorageError) and "NoSuchUpload" in str(error):
                raise StorageError(
                    f"{error}: the upload was completed or aborted before; check the object, and "
                    "start anew if it is missing"
                ) from None
            raise

    def _abort(self, grant: Grant) -> str:
        """Let the service abort the upload, which gives its bytes back; else abort it here."""
        try:
            wait = min(self._options["timeout"], _MAX_CANCEL_WAIT)
            cancelled = self._client.cancel(
                self._upload, "the upload failed", wait, abort_uploads=True
            )
        except ValetkeyError:
            cancelled = None
        if cancelled is not None and cancelled.aborting:
            return (
                "aborted: storage deletes its parts, and the quota gets its bytes back within "
                "minutes"
            )
        if grant.multipart is not None:
            try:
                multipart_storage.abort_upload(grant.multipart.abort_url)
            except StorageError as error:
                return f"not aborted ({error}): the service aborts the upload after it expires"
        return "aborted: nothing of it is stored"


def _describe_kept_upload(state: UploadState, state_file: StateFile) -> str:
    return (
        f"kept until {_format_time(state.expires_at)}, with {format_size(state.stored_bytes)} of "
        f"{format_size(state.size)} stored: run the same command with --resume to continue "
        f"({state_file.path} has the state)"
    )


def _summary(grant: Grant, size: int, stored_before: int, seconds: float) -> str:
    parts = grant.multipart.part_count if grant.multipart else 1
    speed = format_size(round((size - stored_before) / max(seconds, 0.001)))
    before = f", {format_size(stored_before)} of them before" if stored_before else ""
    count = "1 part" if parts == 1 else f"{parts:,} parts"
    took = format_duration(timedelta(seconds=max(round(seconds), 1)))
    return f"stored {grant.key!r}: {format_size(size)} in {count}{before}, in {took} ({speed}/s)"


def _format_time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


@contextmanager
def _progress_bar(size: int, stored_before: int) -> Iterator[Callable[[int], None]]:
    errors = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=errors, disable=not errors.is_terminal, redirect_stdout=False
    ) as bar:
        task = bar.add_task("", total=size, completed=stored_before)
        yield lambda count: bar.advance(task, count)
