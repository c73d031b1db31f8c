import sys
from typing import Any, cast

import click

from valetkey.cli import output
from valetkey.cli.arguments import request_options, require_utf8, snippet_options
from valetkey.cli.commands import base
from valetkey.cli.commands.bulk_request import request_rows
from valetkey.cli.commands.file_options import file_options, reject_with_file, uses_file
from valetkey.wire.messages import Item
from valetkey.wire.options import DownloadOptions

_MEANT = "The version of the one object that is meant."


@click.command()
@click.argument("bucket")
@click.argument("keys", nargs=-1, metavar="[KEY]...", callback=require_utf8)
@file_options
@click.option("--head", "method", flag_value="HEAD", help="For a HEAD request, not a GET.")
@click.option("--version-id", metavar="ID", help=_MEANT)
@click.option("--filename", help="The name under which a browser saves the object.")
@click.option("--content-type", help="The content type that storage answers with.")
@click.option("--inline", is_flag=True, help="Let a browser show the object instead of saving it.")
@click.option("--cache-control", help="The Cache-Control that storage answers with.")
@click.option("--content-language", help="The Content-Language that storage answers with.")
@click.option("--content-encoding", help="The Content-Encoding that storage answers with.")
@click.option("--expires", metavar="DATE", help="The Expires that storage answers with.")
@click.option("--check-owner", is_flag=True, help="Only from the account that must own the bucket.")
@snippet_options("curl", "js")
@request_options
def download(bucket: str, keys: tuple[str, ...], version_id: str | None, **said: Any) -> None:
    """Print a link to one object, or to each of many.

    \b
    valetkey download reports 2026/11/u-1.pdf --expires-in 15m
    valetkey download reports --from keys.csv --out links.csv
    valetkey download reports --from keys.csv --out links.csv --resume
    valetkey download reports --from keys.csv --manifest reports/2026-11.jsonl.gz

    A file of any size holds one key a line, or by its ending .csv or .jsonl a `key` and, if wanted,
    a `filename`, a `version_id` and an `expires_in` in each row. Rows that are wrong are refused by
    their numbers, and the others asked for. Should it be interrupted, --resume goes on: nothing is
    charged again.

    With --manifest, for very large jobs, the service itself writes all answers to an object in the
    same bucket, and one link to it is printed.

    One link is printed alone, several as key, tab and URL; where headers must be sent, they are
    printed as well. Refusals are explained on stderr; with --json and --csv they also stand among
    the grants, in the order asked.
    """
    if uses_file(keys, said):
        reject_with_file({"version_id": version_id}, "version_id")
        sys.exit(request_rows("download", bucket, _form(keys, said), said))
    if version_id is not None and len(keys) != 1:
        raise click.UsageError("--version-id goes with one KEY; a file may name one in each row")
    items = [Item(key=key, version_id=version_id) for key in keys]
    options = cast("DownloadOptions", base.grant_options(said, "download"))
    with base.report_errors(said), base.open_client(said) as client:
        asked = base.select_requester(client, said).download_many(bucket, items, **options)
        status = output.write_response(asked, _form(keys, said), said)
    sys.exit(status)


def _form(keys: tuple[str, ...], said: dict[str, Any]) -> str:
    return "form" if said["check_owner"] else "url" if len(keys) == 1 else "lines"
