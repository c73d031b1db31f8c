import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

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
from valetkey.cli import output
from valetkey.cli.arguments import object_options, request_options, snippet_options
from valetkey.cli.commands import base
from valetkey.cli.locations import object_argument
from valetkey.cli.parameter_types import FILE, SIZE
from valetkey.errors import StorageError
from valetkey.handles import MultipartHandle
from valetkey.multipart_upload import MultipartUploader
from valetkey.wire.options import MultipartOptions
from valetkey.wire.replies import Grant


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
@click.option("--keep", is_flag=True, help="Do not abort the upload if it fails or is interrupted.")
@object_options
@snippet_options("curl", "js")
@request_options
def multipart(bucket: str, key: str, **options: Any) -> None:
    """Upload one large file in parts, and print the id of its grant.

    \b
    valetkey multipart inbox films/cat.mp4 --file cat.mp4 --expires-in 12h
    valetkey multipart inbox films/cat.mp4 --size 20GiB --part-size 64MiB

    The object may be s3://inbox/films/cat.mp4, too. `inbox` names a bucket profile.

    An upload that fails or that you interrupt with Ctrl-C is aborted. With --size, nothing is
    uploaded: the output states how to split the file, and how to complete or abort the upload.
    """
    file: Path | None = options["file"]
    if (file is None) == (options["size"] is None):
        raise click.UsageError("name what to upload: give --file or --size, and not both")
    if file and (options["output_format"] or options["out"]):
        raise click.UsageError(
            "--file prints only the grant's id: leave out --out and all output formats"
        )
    grant_options = cast("MultipartOptions", base.extract_grant_options(options, "multipart"))
    size = file.stat().st_size if file else options["size"]
    with base.report_errors(options), base.open_client(options) as client:
        requester = base.select_request_methods(client, options)
        response = requester.multipart(bucket, key, size=size, **grant_options)
        if file and isinstance(response, MultipartHandle):
            _upload_file(response, file, size, options)
        else:
            sys.exit(output.write_response(response, "json", options))


def _upload_file(
    upload: MultipartHandle, file: Path, size: int, options: Mapping[str, Any]
) -> None:
    grant = upload.result(options["timeout"])
    output.print_quota_warnings(upload.batch.quotas)
    with _abort_on_failure(grant, keep=options["keep"]), _progress_bar(size) as advance:
        parallel, timeout = options["parallel"], options["timeout"]
        MultipartUploader(
            upload, file, parallel=parallel, timeout=timeout, on_progress=advance
        ).run()
    click.echo(grant.id)


@contextmanager
def _abort_on_failure(grant: Grant, *, keep: bool) -> Iterator[None]:
    """Abort the upload if the block fails, unless keep is set, and report the outcome."""
    try:
        yield
    except BaseException:  # KeyboardInterrupt included
        click.echo(_describe_kept_upload(grant) if keep else _abort_upload(grant), err=True)
        raise


def _describe_kept_upload(grant: Grant) -> str:
    expiry = f"{grant.expires_at:%Y-%m-%d %H:%M:%S %Z}"
    return f"kept until {expiry}: the unfinished upload of grant {grant.id}"


def _abort_upload(grant: Grant) -> str:
    if grant.multipart is not None:
        try:
            multipart_storage.abort_upload(grant.multipart.abort_url)
        except StorageError as error:
            return f"not aborted ({error}): the service aborts the upload after the grant expires"
    return "aborted: nothing of it is stored"


@contextmanager
def _progress_bar(size: int) -> Iterator[Callable[[int], None]]:
    errors = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=errors, disable=not errors.is_terminal, redirect_stdout=False
    ) as bar:
        task = bar.add_task("", total=size)
        yield lambda count: bar.advance(task, count)
