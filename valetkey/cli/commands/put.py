import base64
import hashlib
import sys
from pathlib import Path
from typing import Any, cast

import click

from valetkey.cli.arguments import object_options, request_options, snippet_options
from valetkey.cli.commands import base
from valetkey.cli.commands.bulk_options import bulk_options, is_bulk, reject_single_options
from valetkey.cli.commands.bulk_request import request_rows
from valetkey.cli.locations import object_argument
from valetkey.cli.parameter_types import CHECKSUM, FILE, OBJECT_SIZE
from valetkey.cli.results import output
from valetkey.wire.options import PutOptions
from valetkey.wire.terms import Checksum


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
@click.option(
    "--check-owner",
    is_flag=True,
    help="Let storage refuse unless the expected account owns the bucket.",
)
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
    grant_options = cast("PutOptions", base.extract_grant_options(options, "put"))
    with base.report_errors(options), base.open_client(options) as client:
        size = file.stat().st_size if file is not None else cast("int", size)
        checksum = _sha256_checksum(file) if file and sha256 else checksum
        requester = base.select_request_methods(client, options)
        response = requester.put(bucket, key or "", size=size, checksum=checksum, **grant_options)
        sys.exit(output.write_response(response, "form", options))


def _sha256_checksum(file: Path) -> Checksum:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    return Checksum(algorithm="sha256", value=base64.b64encode(digest).decode())
