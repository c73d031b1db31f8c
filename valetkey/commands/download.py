import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import click

from valetkey import files, output
from valetkey.arguments import common, in_utf8, snippets
from valetkey.commands import asking
from valetkey.messages import Item
from valetkey.options import DownloadOptions

_SOURCE = click.Path(exists=True, dir_okay=False, allow_dash=True)
_MEANT = "The version of the one object that is meant."


@click.command()
@click.argument("bucket")
@click.argument("keys", nargs=-1, metavar="[KEY]...", callback=in_utf8)
@click.option("--from", "source", type=_SOURCE, help="Take the keys from a file; - is stdin.")
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
@snippets("curl", "js")
@common
def download(
    bucket: str, keys: tuple[str, ...], source: str | None, version_id: str | None, **said: Any
) -> None:
    """Print a link to one object, or to each of many.

    \b
    valetkey download reports 2026/11/u-1.pdf --expires-in 15m
    valetkey download reports --from keys.csv --out links.csv

    A file holds one key a line, or by its ending .csv or .jsonl a `key` and, if wanted, a
    `filename` and a `version_id` in each row.

    One link is printed alone, several as key, tab and URL; where headers must be sent, they are
    printed as well. Refusals are explained on stderr; with --json and --csv they also stand among
    the grants, in the order asked.
    """
    if bool(keys) == (source is not None):
        raise click.UsageError("name the objects: either KEY... or --from FILE")
    if version_id is not None and len(keys) != 1:
        raise click.UsageError("--version-id goes with one KEY; a file may name one in each row")
    form = "form" if said["check_owner"] else "url" if len(keys) == 1 else "lines"
    options = cast("DownloadOptions", asking.options(said, "download"))
    with (
        asking.explained(said),
        _items(keys, source, version_id) as items,
        asking.client(said) as client,
    ):
        status = output.deliver(
            asking.asker(client, said).download_many(bucket, items, **options), form, said
        )
    sys.exit(status)


@contextmanager
def _items(
    keys: tuple[str, ...], source: str | None, version_id: str | None
) -> Iterator[Iterable[str | Item]]:
    if source is None:
        yield [Item(key=key, version_id=version_id) for key in keys]
        return
    with files.rows(source, sys.stdin.buffer) as rows:
        if not len(rows):
            raise click.UsageError(f"{source} names no objects")
        yield rows
