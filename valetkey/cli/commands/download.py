import sys
from collections.abc import Mapping
from typing import Any, cast

import click

from valetkey.cli.arguments import request_options, snippet_options
from valetkey.cli.commands import base
from valetkey.cli.commands.bulk_options import bulk_options, is_bulk, reject_single_options
from valetkey.cli.commands.bulk_request import request_rows
from valetkey.cli.locations import objects_argument
from valetkey.cli.parameter_types import TEXT
from valetkey.cli.results import output
from valetkey.wire.messages import Item
from valetkey.wire.options import DownloadOptions


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
@click.option(
    "--check-owner",
    is_flag=True,
    help="Let storage refuse unless the expected account owns the bucket.",
)
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
    grant_options = cast("DownloadOptions", base.extract_grant_options(options, "download"))
    with base.report_errors(options), base.open_client(options) as client:
        requester = base.select_request_methods(client, options)
        response = requester.download_many(bucket, items, **grant_options)
        exit_code = output.write_response(response, default_format, options)
    sys.exit(exit_code)


def _default_format(keys: tuple[str, ...], options: Mapping[str, Any]) -> str:
    return "form" if options["check_owner"] else "url" if len(keys) == 1 else "lines"
