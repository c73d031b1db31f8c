import sys
from collections.abc import Callable, Iterator
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
from valetkey.cli.arguments import (
    FILE,
    SIZE,
    request_options,
    require_utf8,
    snippet_options,
    storage_options,
)
from valetkey.cli.commands import base
from valetkey.errors import NotStored
from valetkey.handles import MultipartHandle
from valetkey.multipart_upload import MultipartUploader
from valetkey.wire.messages import Grant
from valetkey.wire.options import MultipartOptions


@click.command()
@click.argument("bucket")
@click.argument("key", callback=require_utf8)
@click.option("--file", type=FILE, help="Upload this file, whole.")
@click.option("--size", type=SIZE, help="Only begin an upload of so many bytes, and print it.")
@click.option("--part-size", type=SIZE, help="The size of a part; by default what suits.")
@click.option("--parallel", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option("--keep", is_flag=True, help="Abort nothing when it fails.")
@storage_options
@snippet_options("curl", "js")
@request_options
def multipart(bucket: str, key: str, **said: Any) -> None:
    """Upload one large file in parts, and print the id of its grant.

    \b
    valetkey multipart inbox films/cat.mp4 --file cat.mp4 --expires-in 12h
    valetkey multipart inbox films/cat.mp4 --size 20GiB --part-size 64MiB

    Whatever does not succeed is aborted, on Ctrl-C as well. With --size nothing is uploaded: what
    is printed says how to cut the file, and how to complete or abort the upload.
    """
    file: Path | None = said["file"]
    if (file is None) == (said["size"] is None):
        raise click.UsageError("say what to upload: either --file or --size")
    if file and (said["form"] or said["out"]):
        raise click.UsageError("with --file there is nothing to print but the grant's id")
    options = cast("MultipartOptions", base.grant_options(said, "multipart"))
    size = file.stat().st_size if file else said["size"]
    with base.report_errors(said), base.open_client(said) as client:
        asked = base.select_requester(client, said).multipart(bucket, key, size=size, **options)
        if file and isinstance(asked, MultipartHandle):
            _upload(asked, file, size, said)
        else:
            sys.exit(output.write_response(asked, "json", said))


def _upload(upload: MultipartHandle, file: Path, size: int, said: dict[str, Any]) -> None:
    grant = upload.result(said["timeout"])
    output.print_quota_warnings(upload.batch.quotas)
    with _ended(grant, keep=said["keep"]), _watched(size) as say:
        parallel, timeout = said["parallel"], said["timeout"]
        MultipartUploader(upload, file, parallel=parallel, timeout=timeout, say=say).run()
    click.echo(grant.id)


@contextmanager
def _ended(grant: Grant, *, keep: bool) -> Iterator[None]:
    """Leave no half of an upload behind, whatever ends it."""
    try:
        yield
    except BaseException:  # Ctrl-C too
        click.echo(_kept(grant) if keep else _aborted(grant), err=True)
        raise


def _kept(grant: Grant) -> str:
    return f"kept until {grant.expires_at:%Y-%m-%d %H:%M:%S %Z}: the upload of {grant.id}"


def _aborted(grant: Grant) -> str:
    if grant.multipart is not None:
        try:
            multipart_storage.abort_upload(grant.multipart.abort_url)
        except NotStored as error:
            return f"not aborted ({error}): the service does it when the grant has ended"
    return "aborted: nothing of it is stored"


@contextmanager
def _watched(size: int) -> Iterator[Callable[[int], None]]:
    errors = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=errors, disable=not errors.is_terminal, redirect_stdout=False
    ) as bar:
        task = bar.add_task("", total=size)
        yield lambda count: bar.advance(task, count)
