"""The command multipart: uploads a file in parts, from a state file if it was interrupted."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import click
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from valetkey import multipart_upload
from valetkey.cli import result_output
from valetkey.cli.client_options import object_options, request_options, snippet_options
from valetkey.cli.commands import command_base
from valetkey.cli.journal import find_changed_option, write_private
from valetkey.cli.locations import object_argument
from valetkey.cli.parameter_types import FILE, SIZE
from valetkey.cli.row_errors import InputError
from valetkey.cli.terminal_text import escape_unprintable, same_command
from valetkey.client import Client
from valetkey.errors import StorageError, ValetkeyError
from valetkey.handles import MultipartHandle
from valetkey.multipart_upload import MultipartUploader, StoredPart
from valetkey.units import format_duration, format_size
from valetkey.wire.messages import ITEM_TEXTS
from valetkey.wire.options import MultipartOptions
from valetkey.wire.replies import Grant
from valetkey.wire.terms import MAX_PARTS

_SAVE_INTERVAL = 1.0  # seconds: the file of an upload of 10,000 parts has a megabyte
_BLOCK = 1024**2  # bytes read at once
_MAX_BYTES = 2**48  # more than storage takes; a file position that every part has fits into 63 bits

_MAX_CANCEL_WAIT = 10.0  # seconds: somebody who pressed Ctrl-C waits for it
_FREE_TO_DIFFER = {"expires_in", "min_expires_in", *ITEM_TEXTS}


class UploadState(BaseModel):
    """An unfinished upload: its grant's id, the file's state at its start, and the stored parts.

    It contains no link and no signature: the grant is signed again when the upload resumes. request
    has the bucket, the key and the options that must be the same then.
    """

    model_config = ConfigDict(extra="forbid")

    v: Literal[1] = 1
    request: dict[str, Any]
    grant_id: str
    expires_at: AwareDatetime
    size: Annotated[int, Field(ge=0, le=_MAX_BYTES)]
    modified_ns: int
    part_size: Annotated[int, Field(ge=1, le=_MAX_BYTES)]
    parts: dict[Annotated[int, Field(ge=1, le=MAX_PARTS)], StoredPart] = {}

    @property
    def stored_bytes(self) -> int:
        """The size of the stored parts together."""
        return sum(min(self.part_size, self.size - self._offset(n)) for n in self.parts)

    def find_change(self, source: Path) -> str | None:
        """Return what has changed in the source since the upload began, or None."""
        status = source.stat()
        if status.st_size != self.size:
            return f"had {self.size:,} bytes and has {status.st_size:,} now"
        with source.open("rb") as stream:
            for number, part in sorted(self.parts.items()):
                if self._digest(stream, number) != part.sha256:
                    return f"has changed in part {number}, which is stored already"
        # What is not stored yet has no digest.
        return None if status.st_mtime_ns == self.modified_ns else "was written to"

    def _digest(self, stream: Any, number: int) -> str:
        stream.seek(self._offset(number))
        digest, left = sha256(), self.part_size
        while left and (data := stream.read(min(left, _BLOCK))):
            digest.update(data)
            left -= len(data)
        return digest.hexdigest()

    def _offset(self, number: int) -> int:
        return (number - 1) * self.part_size


def state_path(source: Path) -> Path:
    """Return the file in which the state of a source's upload is kept."""
    return source.with_name(f"{source.name}.upload.json")


def load_state(path: Path) -> UploadState | None:
    """Return a kept state, or None if there is none. Raises InputError if it cannot be read."""
    try:
        return UploadState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise InputError(
            f"{path} is not the state of an unfinished upload: remove it to start anew"
        ) from None


def check_resumable(state: UploadState, file: Path, request: Mapping[str, Any]) -> None:
    """Raise click.UsageError if the upload has expired, or is of another request or file."""
    anew = f"remove {state_path(file)} and run the command without --resume to start anew"
    if state.expires_at <= datetime.now(UTC):
        raise click.UsageError(
            f"the unfinished upload expired at {_format_time(state.expires_at)}: {anew}"
        )
    changed = find_changed_option(state.request, request)
    if changed is not None:
        raise click.UsageError(
            f"the unfinished upload has another {escape_unprintable(changed)}: --resume needs the "
            f"same options; or {anew}"
        )
    change = state.find_change(file)
    if change is not None:
        raise click.UsageError(f"{file} {change}, so its upload cannot be continued: {anew}")


class FileUpload:
    """The upload of one file by a requested multipart upload.

    state is that of an upload to resume. It is kept in a file, which is written at most once a
    second.
    """

    def __init__(
        self,
        client: Client,
        upload: MultipartHandle,
        file: Path,
        options: Mapping[str, Any],
        state: UploadState | None = None,
    ) -> None:
        self._client = client
        self._upload = upload
        self._file = file
        self._options = options
        self._state = state
        self._saved_at = 0.0

    def start(self, request: dict[str, Any]) -> None:
        """Upload the whole file; with --keep, save the state from which it can be resumed."""
        grant = self._upload.result(self._options["timeout"])
        result_output.print_quota_warnings(self._upload.batch.quotas)
        if self._options["keep"] and grant.multipart is not None:
            with self._clean_up_failure(grant):  # the disk may be full, or the file gone
                status = self._file.stat()
                state = UploadState(
                    request=request,
                    grant_id=grant.id,
                    expires_at=grant.expires_at,
                    size=status.st_size,
                    modified_ns=status.st_mtime_ns,
                    part_size=grant.multipart.part_size,
                )
                self._save(state)
            self._state = state
        self._run(grant)

    def resume(self) -> None:
        """Upload the parts that are missing."""
        self._run(self._upload.result(self._options["timeout"]))

    def _run(self, grant: Grant) -> None:
        size = self._file.stat().st_size
        stored_before = self._state.stored_bytes if self._state else 0
        if stored_before:
            total = f"{format_size(stored_before)} of {format_size(size)}"
            click.echo(f"resuming: {total} are stored already", err=True)
        began = time.monotonic()
        with self._clean_up_failure(grant), _progress_bar(size, stored_before) as advance:
            MultipartUploader(
                self._upload,
                self._file,
                parallel=self._options["parallel"],
                timeout=self._options["timeout"],
                stored_parts=self._state.parts if self._state else {},
                on_stored=self._keep_part,
                on_progress=advance,
            ).run()
        if self._state:
            state_path(self._file).unlink(missing_ok=True)
        click.echo(_summary(grant, size, stored_before, time.monotonic() - began), err=True)
        click.echo(grant.id)

    def _keep_part(self, number: int, part: StoredPart) -> None:
        if self._state:
            self._state.parts[number] = part
            if time.monotonic() >= self._saved_at + _SAVE_INTERVAL:
                self._save(self._state)

    def _save(self, state: UploadState) -> None:
        write_private(state_path(self._file), state.model_dump_json() + "\n")
        self._saved_at = time.monotonic()

    @contextmanager
    def _clean_up_failure(self, grant: Grant) -> Iterator[None]:
        """If the block fails, keep the upload if it has a state, else abort it, and say so."""
        try:
            yield
        except BaseException as error:  # KeyboardInterrupt included
            if self._state is None:
                click.echo(self._abort(grant), err=True)
            else:
                self._save(self._state)
                click.echo(_describe_kept_upload(self._state, self._file), err=True)
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
                multipart_upload.abort_upload(grant.multipart.abort_url)
            except StorageError as error:
                return f"not aborted ({error}): the service aborts the upload after it expires"
        return "aborted: nothing of it is stored"


def _describe_kept_upload(state: UploadState, file: Path) -> str:
    return (
        f"kept until {_format_time(state.expires_at)}, with {format_size(state.stored_bytes)} of "
        f"{format_size(state.size)} stored: {state_path(file)} has the state, and the next command "
        f"continues\nNext: {same_command('--resume')}"
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


@click.command()
@object_argument
@click.option("--file", type=FILE, help="Upload this file completely.")
@click.option("--size", type=SIZE, help="Only start an upload of this size, and print its grant.")
@click.option("--part-size", type=SIZE, help="The size of a part; by default the service decides.")
@click.option(
    "--parallel",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="The number of parts that are sent at the same time.",
)
@click.option(
    "--keep",
    is_flag=True,
    help="Do not abort the upload if it fails or is interrupted: --resume continues it.",
)
@click.option("--resume", is_flag=True, help="Continue the kept upload of --file; implies --keep.")
@object_options
@snippet_options("curl", "js")
@request_options
def multipart(bucket: str, key: str, **options: Any) -> None:
    """Upload one large file in parts, and print the id of its grant.

    \b
    valetkey multipart inbox films/cat.mp4 --file cat.mp4 --expires-in 12h
    valetkey multipart inbox films/cat.mp4 --file cat.mp4 --expires-in 12h --keep
    valetkey multipart inbox films/cat.mp4 --file cat.mp4 --expires-in 12h --resume
    valetkey multipart inbox films/cat.mp4 --size 20GiB --part-size 64MiB

    The object may be s3://inbox/films/cat.mp4, too. `inbox` names a bucket profile.

    An upload that fails or that you interrupt with Ctrl-C is aborted. With --keep, it is not: run
    the same command with --resume, and only the missing parts are sent, until the grant expires.
    The state is a file beside the source, cat.mp4.upload.json, which contains no link.

    With --size, nothing is uploaded: the output states how to split the file, and how to complete
    or abort the upload.
    """
    file: Path | None = options["file"]
    _check_options(file, options)
    grant_options = cast(
        "MultipartOptions", command_base.extract_grant_options(options, "multipart")
    )
    request = _comparable_request(bucket, key, grant_options)
    with command_base.report_errors(options):
        state = _load_state(file, request, options) if file else None
        with command_base.open_client(options) as client:
            if file and state:
                batch = client.batch(state.grant_id.partition(".")[0])
                upload = MultipartHandle(batch, partial(client.parts, bucket))
                FileUpload(client, upload, file, options, state).resume()
                return
            requester = command_base.select_request_methods(client, options)
            size = file.stat().st_size if file else options["size"]
            response = requester.multipart(bucket, key, size=size, **grant_options)
            if file and isinstance(response, MultipartHandle):
                FileUpload(client, response, file, options).start(request)
            else:
                sys.exit(result_output.write_response(response, "json", options))


def _check_options(file: Path | None, options: Mapping[str, Any]) -> None:
    """Raise click.UsageError for options that exclude each other."""
    if (file is None) == (options["size"] is None):
        raise click.UsageError("name what to upload: give --file or --size, and not both")
    if file and (options["output_format"] or options["out"]):
        raise click.UsageError(
            "--file prints only the grant's id: leave out --out and all output formats"
        )
    if file is None and (options["keep"] or options["resume"]):
        raise click.UsageError("--keep and --resume need --file")
    if options["resume"] and options["dry_run"]:
        raise click.UsageError("--resume requests nothing that --dry-run could explain")


def _comparable_request(bucket: str, key: str, options: MultipartOptions) -> dict[str, Any]:
    """Return the values, as JSON, that must be the same when the upload is resumed."""
    values = {name: value for name, value in options.items() if name not in _FREE_TO_DIFFER}
    result: dict[str, Any] = to_jsonable_python({"bucket": bucket, "key": key, **values})
    return result


def _load_state(file: Path, request: dict[str, Any], options: dict[str, Any]) -> UploadState | None:
    """Return the state of the upload to resume; None for a new upload."""
    if options["dry_run"]:
        return None
    path = state_path(file)
    state = load_state(path)
    if (state is None) == options["resume"]:
        if state is None:
            raise click.UsageError(f"there is no upload to resume: {path} does not exist")
        raise click.UsageError(
            f"{path} belongs to an unfinished upload: add --resume to continue it, or remove the "
            "file to start anew"
        )
    if state is not None:
        check_resumable(state, file, request)
    elif options["keep"] and not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"--keep writes {path}, but the folder {path.parent} is not writable")
    return state
