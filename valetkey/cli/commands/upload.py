import sys
from typing import Any, cast

import click

from valetkey.cli import output
from valetkey.cli.arguments import (
    CHECKSUM,
    SIZE,
    request_options,
    require_utf8,
    snippet_options,
    storage_options,
)
from valetkey.cli.commands import base
from valetkey.cli.commands.bulk_request import request_rows
from valetkey.cli.commands.file_options import file_options, reject_with_file, uses_file
from valetkey.wire.options import UploadOptions
from valetkey.wire.terms import Checksum


@click.command()
@click.argument("bucket")
@click.argument("key", required=False, callback=require_utf8)
@file_options
@click.option("--max-size", type=SIZE, required=True, help="The largest file: 500KiB, 5MB, 1GiB.")
@click.option("--min-size", type=SIZE, help="The smallest file.")
@click.option("--checksum", type=CHECKSUM, metavar="ALGORITHM:BASE64", help="What it must be.")
@click.option(
    "--success-status",
    type=int,
    metavar="200|201|204",
    help="What storage answers when it has the file.",
)
@click.option("--success-redirect", metavar="URL", help="Where it sends the browser then.")
@storage_options
@snippet_options("curl", "html", "js")
@request_options
def upload(bucket: str, key: str | None, checksum: Checksum | None, **said: Any) -> None:
    """Print a form that stores one object under one key, its size within limits.

    \b
    valetkey upload inbox photos/cat.jpg --max-size 5MB --content-type image/jpeg
    valetkey upload inbox photos/cat.jpg --max-size 5MB --curl | sh
    valetkey upload inbox --from keys.csv --max-size 5MB --out forms.jsonl

    The curl command uploads the file of the key's last name (cat.jpg) from the current folder. A
    content type such as image/* lets whoever uploads choose within it.

    A file holds one key a line, or by its ending .csv or .jsonl a `key` and, if wanted, a `size`, a
    `checksum` and an `expires_in` in each row; bad rows and --resume are as in `download --help`.
    """
    if uses_file(key, said):
        reject_with_file({"checksum": checksum}, "checksum")
        sys.exit(request_rows("upload", bucket, "form", said))
    options = cast("UploadOptions", base.grant_options(said, "upload"))
    with base.report_errors(said), base.open_client(said) as client:
        asked = base.select_requester(client, said).upload(
            bucket, key or "", checksum=checksum, **options
        )
        status = output.write_response(asked, "form", said)
    sys.exit(status)
