import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import click

from valetkey import files, output
from valetkey.arguments import SIZE, common, in_utf8, metadata
from valetkey.batches import DownloadOptions, UploadOptions
from valetkey.client import Client
from valetkey.errors import BrokerUnreachable, NoAnswer, NotConfigured
from valetkey.messages import Item

_SOURCE = click.Path(exists=True, dir_okay=False, allow_dash=True)


class _Unanswered(click.ClickException):
    exit_code = 3


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="valetkey", prog_name="valetkey")
def main() -> None:
    """Ask for temporary S3 permissions: links to download, forms to upload.

    \b
    valetkey download reports 2026/11/u-1.pdf
    valetkey upload inbox photos/cat.jpg --max-size 5MB --curl

    A service started with `python -m worker dev` in this folder is found by itself; for any
    other, set VALETKEY_BROKER_URL and VALETKEY_TENANT.

    Exit codes: 0 all issued, 1 something refused, 2 usage, 3 no answer in time.
    """


@main.command()
@click.argument("bucket")
@click.argument("keys", nargs=-1, metavar="[KEY]...", callback=in_utf8)
@click.option("--from", "source", type=_SOURCE, help="Take the keys from a file; - is stdin.")
@click.option("--filename", help="The name under which a browser saves the object.")
@click.option("--content-type", help="The content type that storage answers with.")
@common
def download(bucket: str, keys: tuple[str, ...], source: str | None, **said: Any) -> None:
    """Print a link to one object, or to each of many.

    \b
    valetkey download reports 2026/11/u-1.pdf --expires-in 15m
    valetkey download reports --from keys.csv --out links.csv

    A file holds one key a line, or by its ending .csv or .jsonl a `key` and, if wanted, a
    `filename` in each row.

    One link is printed alone, several as key, tab and URL. Refusals are explained on stderr; with
    --json and --csv they also stand among the grants, in the order asked.
    """
    if bool(keys) == (source is not None):
        raise click.UsageError("name the objects: either KEY... or --from FILE")
    options = cast("DownloadOptions", _options(said, DownloadOptions))
    with _explained(said), _items(keys, source) as items, _client(said) as client:
        batch = client.download_many(bucket, items, **options)
        output.deliver(batch, "url" if len(keys) == 1 else "lines", said)
    sys.exit(1 if batch.refused else 0)


@main.command()
@click.argument("bucket")
@click.argument("key", callback=in_utf8)
@click.option("--max-size", type=SIZE, required=True, help="The largest file: 500KiB, 5MB, 1GiB.")
@click.option("--min-size", type=SIZE, default="0", help="The smallest file.")
@click.option("--content-type", help="The content type that the upload must have.")
@click.option("--acl", help="A canned ACL such as public-read, where the policy allows it.")
@click.option(
    "--meta",
    "metadata",
    metavar="NAME=VALUE",
    multiple=True,
    callback=metadata,
    help="Metadata to store with the object.",
)
@click.option("--curl", "form", flag_value="curl", help="Print a curl command instead.")
@click.option("--html", "form", flag_value="html", help="Print a page with the form instead.")
@common
def upload(bucket: str, key: str, **said: Any) -> None:
    """Print a form that stores one object under one key, its size within limits.

    \b
    valetkey upload inbox photos/cat.jpg --max-size 5MB --content-type image/jpeg
    valetkey upload inbox photos/cat.jpg --max-size 5MB --curl | sh

    The curl command uploads the file of the key's last name (cat.jpg) from the current folder.
    """
    options = cast("UploadOptions", _options(said, UploadOptions))
    with _explained(said), _client(said) as client:
        batch = client.upload_many(bucket, [key], **options)
        output.deliver(batch, "form", said)
    sys.exit(1 if batch.refused else 0)


def _options(said: dict[str, Any], kind: type) -> dict[str, Any]:
    return {name: said[name] for name in kind.__annotations__ if name in said}


def _client(said: dict[str, Any]) -> Client:
    return Client(tenant=said["tenant"], requested_by=said["requested_by"])


@contextmanager
def _items(keys: tuple[str, ...], source: str | None) -> Iterator[Iterable[str | Item]]:
    if source is None:
        yield keys
        return
    with files.rows(source, sys.stdin.buffer) as rows:
        if not len(rows):
            raise click.UsageError(f"{source} names no objects")
        yield rows


@contextmanager
def _explained(said: dict[str, Any]) -> Iterator[None]:
    out: Path | None = said["out"]
    try:
        yield
    except (NotConfigured, files.BadRow) as error:
        raise click.UsageError(str(error)) from None
    except BrokenPipeError:
        raise  # the reader of stdout has had enough: Click's to handle
    except OSError as error:
        raise click.UsageError(str(error)) from None
    except (NoAnswer, BrokerUnreachable) as error:
        kept = "" if out is None else f"; what came before is in {files.partial(out)}"
        raise _Unanswered(f"{error}{kept}") from None
