import sys
from typing import Any, cast

import click

from valetkey import output
from valetkey.arguments import CHECKSUM, SIZE, common, in_utf8, snippets, storing
from valetkey.commands import asking
from valetkey.commands.from_file import from_file, is_chosen, only_for_one
from valetkey.commands.many import ask_for_rows
from valetkey.options import UploadOptions
from valetkey.terms import Checksum


@click.command()
@click.argument("bucket")
@click.argument("key", required=False, callback=in_utf8)
@from_file
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
@storing
@snippets("curl", "html", "js")
@common
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
    if is_chosen(key, said):
        only_for_one({"checksum": checksum}, "checksum")
        sys.exit(ask_for_rows("upload", bucket, "form", said))
    options = cast("UploadOptions", asking.options(said, "upload"))
    with asking.explained(said), asking.client(said) as client:
        asked = asking.asker(client, said).upload(bucket, key or "", checksum=checksum, **options)
        status = output.deliver(asked, "form", said)
    sys.exit(status)
