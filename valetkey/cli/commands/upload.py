import sys
from typing import Any, cast

import click

from valetkey.cli.arguments import object_options, request_options, snippet_options
from valetkey.cli.commands import base
from valetkey.cli.commands.bulk_options import bulk_options, is_bulk, reject_single_options
from valetkey.cli.commands.bulk_request import request_rows
from valetkey.cli.commands.issued.wait import wait_until_stored
from valetkey.cli.locations import object_argument
from valetkey.cli.parameter_types import CHECKSUM, MAX_SIZE, OBJECT_SIZE, TEXT
from valetkey.cli.results import output
from valetkey.handles import GrantHandle
from valetkey.wire.options import UploadOptions
from valetkey.wire.terms import Checksum


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

    With --wait, the command goes on until storage has the object, and says on stderr what is there;
    with --json, also as a second object. It exits with 4 if the object is not stored in time, or
    not as granted, and names the command that goes on waiting: to repeat this one is charged again.

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
    grant_options = cast("UploadOptions", base.extract_grant_options(options, "upload"))
    with base.report_errors(options), base.open_client(options) as client:
        requester = base.select_request_methods(client, options)
        response = requester.upload(bucket, key or "", checksum=checksum, **grant_options)
        exit_code = output.write_response(response, "form", options)
        if wait and isinstance(response, GrantHandle) and not exit_code:
            wait_until_stored(response, options)
    sys.exit(exit_code)
