import base64
import hashlib
import sys
from pathlib import Path
from typing import Any, cast

import click

from valetkey.cli import output
from valetkey.cli.arguments import (
    CHECKSUM,
    FILE,
    SIZE,
    request_options,
    require_utf8,
    snippet_options,
    storage_options,
)
from valetkey.cli.commands import base
from valetkey.cli.commands.bulk_request import request_rows
from valetkey.cli.commands.file_options import file_options, reject_with_file, uses_file
from valetkey.wire.options import PutOptions
from valetkey.wire.terms import Checksum


@click.command()
@click.argument("bucket")
@click.argument("key", required=False, callback=require_utf8)
@file_options
@click.option("--size", type=SIZE, help="How many bytes it will have, exactly.")
@click.option("--file", type=FILE, help="Take the size of this file; --curl sends it.")
@click.option("--checksum", type=CHECKSUM, metavar="ALGORITHM:BASE64", help="What it must be.")
@click.option("--sha256", is_flag=True, help="Take the SHA-256 of --file as the checksum.")
@click.option("--overwrite", is_flag=True, help="Let it replace what has this key already.")
@click.option("--check-owner", is_flag=True, help="Only in the account that must own the bucket.")
@storage_options
@snippet_options("curl", "html", "js")
@request_options
def put(
    bucket: str,
    key: str | None,
    size: int | None,
    checksum: Checksum | None,
    *,
    sha256: bool,
    **said: Any,
) -> None:
    """Print a PUT that stores one object of exactly one size.

    \b
    valetkey put inbox photos/cat.jpg --size 48211 --content-type image/jpeg
    valetkey put inbox photos/cat.jpg --file cat.jpg --sha256 --curl | sh
    valetkey put inbox --from keys.csv --out puts.jsonl

    The PUT holds once: without --overwrite, storage refuses it as soon as there is such an object.

    A file is .csv or .jsonl, with a `key`, a `size` and, if wanted, a `checksum` (as --checksum has
    it) and an `expires_in` in each row; bad rows and --resume are as in `download --help`.
    """
    if uses_file(key, said):
        one = said | {"size": size, "checksum": checksum, "sha256": sha256}
        reject_with_file(one, "size", "file", "checksum", "sha256")
        sys.exit(request_rows("put", bucket, "form", said))
    file: Path | None = said["file"]
    if (size is None) == (file is None):
        raise click.UsageError("say how large it is: either --size or --file")
    if sha256 and (file is None or checksum is not None):
        raise click.UsageError("--sha256 is computed from --file, and goes without --checksum")
    options = cast("PutOptions", base.grant_options(said, "put"))
    with base.report_errors(said), base.open_client(said) as client:
        size = file.stat().st_size if file else size or 0
        checksum = _sha256(file) if file and sha256 else checksum
        asker = base.select_requester(client, said)
        asked = asker.put(bucket, key or "", size=size, checksum=checksum, **options)
        status = output.write_response(asked, "form", said)
    sys.exit(status)


def _sha256(file: Path) -> Checksum:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    return Checksum(algorithm="sha256", value=base64.b64encode(digest).decode())
