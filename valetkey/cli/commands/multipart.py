import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
from pydantic_core import to_jsonable_python

from valetkey.cli.arguments import object_options, request_options, snippet_options
from valetkey.cli.commands import base
from valetkey.cli.commands.multipart_file import FileUpload, check_resumable
from valetkey.cli.locations import object_argument
from valetkey.cli.parameter_types import FILE, SIZE
from valetkey.cli.results import output
from valetkey.cli.upload_state import StateFile, UploadState
from valetkey.client import Client
from valetkey.handles import MultipartHandle
from valetkey.wire.options import MultipartOptions

_FREE_TO_DIFFER = {"expires_in", "min_expires_in", "reason", "recipient"}


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
    grant_options = cast("MultipartOptions", base.extract_grant_options(options, "multipart"))
    request = _comparable_request(bucket, key, grant_options)
    with base.report_errors(options):
        state = _load_state(file, request, options) if file else None
        with base.open_client(options) as client:
            if file and state:
                FileUpload(client, _reopen(client, bucket, state), file, options).resume(state)
                return
            requester = base.select_request_methods(client, options)
            size = file.stat().st_size if file else options["size"]
            response = requester.multipart(bucket, key, size=size, **grant_options)
            if file and isinstance(response, MultipartHandle):
                FileUpload(client, response, file, options).start(request)
            else:
                sys.exit(output.write_response(response, "json", options))


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
    state_file = StateFile(file)
    if options["dry_run"]:
        return None
    state = state_file.load()
    if (state is None) == options["resume"]:
        if state is None:
            raise click.UsageError(
                f"there is no upload to resume: {state_file.path} does not exist"
            )
        raise click.UsageError(
            f"{state_file.path} belongs to an unfinished upload: add --resume to continue it, or "
            "remove the file to start anew"
        )
    if state is not None:
        check_resumable(state, state_file, file, request)
    elif options["keep"]:
        state_file.check_writable()
    return state


def _reopen(client: Client, bucket: str, state: UploadState) -> MultipartHandle:
    return MultipartHandle(client.batch(state.batch_id), partial(client.parts, bucket))
