"""The commands that request links, forms and PUTs: presign, download, upload and put."""

import base64
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import click

from valetkey.cli import result_output
from valetkey.cli.client_options import (
    link_options,
    object_options,
    request_options,
    snippet_options,
)
from valetkey.cli.commands import command_base
from valetkey.cli.commands.bulk_request import (
    bulk_options,
    is_bulk,
    reject_single_options,
    request_rows,
)
from valetkey.cli.commands.issued_commands import wait_until_stored
from valetkey.cli.locations import object_argument, objects_argument
from valetkey.cli.parameter_types import CHECKSUM, FILE, MAX_SIZE, OBJECT_SIZE, TEXT
from valetkey.handles import GrantHandle
from valetkey.wire.messages import Item
from valetkey.wire.options import DownloadOptions, PutOptions, UploadOptions
from valetkey.wire.terms import Checksum

_check_owner = click.option(
    "--check-owner",
    is_flag=True,
    help="Let storage refuse unless the expected account owns the bucket.",
)


@click.command()
@object_argument
@link_options
def presign(bucket: str, key: str, **options: Any) -> None:
    """Print a link to one object, and nothing else.

    \b
    valetkey presign s3://reports/2026/11/u-1.pdf
    valetkey presign s3://reports/2026/11/u-1.pdf --expires-in 7d

    Unlike in `aws s3 presign`, the name after s3:// is that of a bucket profile of the service.
    `valetkey download` has more options, and prints links to several objects.
    """
    grant_options = cast("DownloadOptions", command_base.extract_grant_options(options, "download"))
    with command_base.report_errors(options), command_base.open_client(options) as client:
        handle = client.download(bucket, key, **grant_options)
        grant = handle.result(options["timeout"])
    click.echo(grant.url)
    result_output.print_quota_warnings(handle.batch.quotas)


@click.command()
@objects_argument
@bulk_options
@click.option("--head", "method", flag_value="HEAD", help="Allow a HEAD request instead of a GET.")
@click.option(
    "--version-id", type=TEXT, metavar="ID", help="The version of the object, for a single KEY."
)
@click.option("--filename", type=TEXT, help="The name under which a browser saves the object.")
@click.option("--content-type", type=TEXT, help="The Content-Type that storage responds with.")
@click.option("--inline", is_flag=True, help="Let a browser show the object instead of saving it.")
@click.option("--cache-control", type=TEXT, help="The Cache-Control that storage responds with.")
@click.option(
    "--content-language", type=TEXT, help="The Content-Language that storage responds with."
)
@click.option(
    "--content-encoding", type=TEXT, help="The Content-Encoding that storage responds with."
)
@click.option(
    "--expires", type=TEXT, metavar="DATE", help="The Expires that storage responds with."
)
@_check_owner
@click.option(
    "--plain", is_flag=True, help="Omit all response headers and the grant id from the link."
)
@snippet_options("curl", "js")
@request_options
def download(bucket: str, keys: tuple[str, ...], version_id: str | None, **options: Any) -> None:
    """Print a link to one object, or to each of several objects.

    \b
    valetkey download reports 2026/11/u-1.pdf --expires-in 15m
    valetkey download reports --from keys.csv --out links.csv
    valetkey download reports --from keys.csv --out links.csv --resume
    valetkey download reports --from keys.csv --manifest reports/2026-11.jsonl.gz

    s3://reports/2026/11/u-1.pdf is the same as reports 2026/11/u-1.pdf: `reports` is the name of a
    bucket profile. Several URIs have to be in the same one.

    The file of --from may have any size. It has one key a line. If its name ends in .csv or .jsonl,
    each row has a `key` and optionally a `filename`, a `version_id` and an `expires_in`. Invalid
    rows are refused by their line, and the other rows are requested. Other columns are copied to
    the output of --csv and --json. After an interruption, run the same command with --resume:
    nothing is charged twice. If rows were refused, --resume requests only these again.

    With --manifest, for very large files, the service writes all results to an object in the same
    bucket, and the command prints one link to that object.

    A single link is printed alone. Several are printed as key, tab and URL. If headers must be
    sent, they are printed as well. Refusals are explained on stderr. With --json and --csv, they
    also appear among the grants, in the order of the request.
    """
    default_format = _default_format(keys, options)
    if is_bulk(keys, options):
        reject_single_options({"version_id": version_id}, "version_id")
        sys.exit(request_rows("download", bucket, default_format, options))
    if version_id is not None and len(keys) != 1:
        raise click.UsageError(
            "--version-id applies to a single KEY: use --from to name a version in each row"
        )
    items = [Item(key=key, version_id=version_id) for key in keys]
    grant_options = cast("DownloadOptions", command_base.extract_grant_options(options, "download"))
    with command_base.report_errors(options), command_base.open_client(options) as client:
        requester = command_base.select_request_methods(client, options)
        response = requester.download_many(bucket, items, **grant_options)
        exit_code = result_output.write_response(response, default_format, options)
    sys.exit(exit_code)


def _default_format(keys: tuple[str, ...], options: Mapping[str, Any]) -> str:
    return "form" if options["check_owner"] else "url" if len(keys) == 1 else "lines"


@click.command()
@object_argument
@bulk_options
@click.option(
    "--max-size", type=MAX_SIZE, required=True, help="The maximum file size: 500KiB, 5MB, 1GiB."
)
@click.option("--min-size", type=OBJECT_SIZE, help="The minimum file size.")
@click.option(
    "--checksum",
    type=CHECKSUM,
    metavar="ALGORITHM:BASE64",
    help="The checksum that the file must have.",
)
@click.option(
    "--success-status",
    type=int,
    metavar="200|201|204",
    help="The status that storage responds with after storing the file.",
)
@click.option(
    "--success-redirect",
    type=TEXT,
    metavar="URL",
    help="The URL to which storage redirects the browser after storing the file.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait until storage has the object, for --timeout if given (else 10m), and describe it.",
)
@object_options
@snippet_options("curl", "html", "js")
@request_options
def upload(
    bucket: str, key: str | None, checksum: Checksum | None, *, wait: bool, **options: Any
) -> None:
    """Print a form that stores one object of limited size.

    \b
    valetkey upload inbox photos/cat.jpg --max-size 5MB --content-type image/jpeg
    valetkey upload inbox photos/cat.jpg --max-size 5MB --curl | sh
    valetkey upload inbox photos/cat.jpg --max-size 5MB --html --out form.html --wait
    valetkey upload inbox --from keys.csv --max-size 5MB --out forms.jsonl

    The curl command uploads the file with the last name of the key (cat.jpg) from the current
    folder. With a content type such as audio/*, the uploader chooses any type that it
    matches, if the policy allows that.

    With --wait, the command waits until storage has the object, and describes it on stderr; with
    --json, also as a second object. It exits with 4 if the object is not stored in time, or not as
    granted, and names the command that continues to wait: to repeat this one is charged again.

    The object may be s3://inbox/photos/cat.jpg, too. `inbox` names a bucket profile.

    The file of --from has one key a line. If its name ends in .csv or .jsonl, each row has a `key`
    and optionally a `size`, a `checksum` and an `expires_in`. `valetkey download --help` describes
    invalid rows and --resume.
    """
    if is_bulk(key, options):
        reject_single_options({"checksum": checksum, "wait": wait}, "checksum", "wait")
        sys.exit(request_rows("upload", bucket, "form", options))
    if wait and options["dry_run"]:
        raise click.UsageError("--dry-run grants nothing that --wait could wait for")
    grant_options = cast("UploadOptions", command_base.extract_grant_options(options, "upload"))
    with command_base.report_errors(options), command_base.open_client(options) as client:
        requester = command_base.select_request_methods(client, options)
        response = requester.upload(bucket, key or "", checksum=checksum, **grant_options)
        exit_code = result_output.write_response(response, "form", options)
        if wait and isinstance(response, GrantHandle) and not exit_code:
            wait_until_stored(response, options)
    sys.exit(exit_code)


@click.command()
@object_argument
@bulk_options
@click.option("--size", type=OBJECT_SIZE, help="The exact size of the object.")
@click.option("--file", type=FILE, help="Use the size of this file; --curl sends the file.")
@click.option(
    "--checksum",
    type=CHECKSUM,
    metavar="ALGORITHM:BASE64",
    help="The checksum that the object must have.",
)
@click.option("--sha256", is_flag=True, help="Use the SHA-256 of --file as the checksum.")
@click.option("--overwrite", is_flag=True, help="Allow replacing an existing object of this key.")
@_check_owner
@object_options
@snippet_options("curl", "html", "js")
@request_options
def put(
    *,
    bucket: str,
    key: str | None,
    size: int | None,
    checksum: Checksum | None,
    sha256: bool,
    **options: Any,
) -> None:
    """Print a PUT request that stores one object of an exact size.

    \b
    valetkey put inbox photos/cat.jpg --size 48211 --content-type image/jpeg
    valetkey put inbox photos/cat.jpg --file cat.jpg --sha256 --curl | sh
    valetkey put inbox --from keys.csv --out puts.jsonl

    The PUT succeeds once: without --overwrite, storage refuses it if the object exists already.

    The object may be s3://inbox/photos/cat.jpg, too. `inbox` names a bucket profile.

    The file of --from ends in .csv or .jsonl. Each row has a `key`, a `size` and optionally a
    `checksum` (in the form of --checksum) and an `expires_in`. `valetkey download --help` describes
    invalid rows and --resume.
    """
    if is_bulk(key, options):
        item_options = options | {"size": size, "checksum": checksum, "sha256": sha256}
        reject_single_options(item_options, "size", "file", "checksum", "sha256")
        sys.exit(request_rows("put", bucket, "form", options))
    file: Path | None = options["file"]
    if (size is None) == (file is None):
        raise click.UsageError("state the size of the object: give --size or --file, and not both")
    if sha256 and (file is None or checksum is not None):
        raise click.UsageError("--sha256 needs --file, and excludes --checksum")
    grant_options = cast("PutOptions", command_base.extract_grant_options(options, "put"))
    with command_base.report_errors(options), command_base.open_client(options) as client:
        size = file.stat().st_size if file is not None else cast("int", size)
        checksum = _sha256_checksum(file) if file and sha256 else checksum
        requester = command_base.select_request_methods(client, options)
        response = requester.put(bucket, key or "", size=size, checksum=checksum, **grant_options)
        sys.exit(result_output.write_response(response, "form", options))


def _sha256_checksum(file: Path) -> Checksum:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    return Checksum(algorithm="sha256", value=base64.b64encode(digest).decode())
