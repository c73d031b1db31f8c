"""Prints the configuration with which the storage behind a bucket profile reports uses."""

import json
import re
from typing import get_args
from urllib.parse import urlsplit

import click

from valetkey.cli.format_options import format_option
from worker.base.database_engine import read_transaction
from worker.base.pages import did_you_mean
from worker.cli.database import open_database
from worker.core.tenant_config import Bucket, DefaultEndpoints
from worker.ledger.tenant_rows import load_config
from worker.settings import Settings
from worker.uses.storage_setup import SetupNames, Storage, setup_documents, setup_steps

_EXAMPLE_ACCOUNT = "111122223333"
_AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn")


def _check_account(
    _context: click.Context, _param: click.Parameter, text: str | None
) -> str | None:
    if text is not None and not re.fullmatch("[0-9]{12}", text):
        raise click.BadParameter("an AWS account is 12 digits, without hyphens")
    return text


def _check_queue(_context: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    if text is not None and text.endswith(".fifo"):
        raise click.BadParameter("storage sends to no FIFO queue: name a standard queue")
    if text is not None and not re.fullmatch("[A-Za-z0-9_-]{1,80}", text):
        raise click.BadParameter("a queue's name is 1 to 80 characters of A-Z, a-z, 0-9, - and _")
    return text


@click.command("setup")
@click.argument("profile")
@click.option(
    "--storage",
    type=click.Choice(get_args(Storage)),
    help="The storage behind the profile. Needed unless it is AWS.",
)
@click.option(
    "--account",
    metavar="ID",
    callback=_check_account,
    help=f"The AWS account of bucket and queue; unset: the profile's owner, or {_EXAMPLE_ACCOUNT}.",
)
@click.option(
    "--queue",
    metavar="NAME",
    callback=_check_queue,
    help="The name of the queue; unset: valetkey-PROFILE.",
)
@format_option("--json", "Print one JSON object with the documents alone, by file name.")
def setup(
    *,
    profile: str,
    storage: Storage | None,
    account: str | None,
    queue: str | None,
    output_format: str | None,
) -> None:
    """Print how to let the storage behind bucket profile PROFILE tell of uses.

    The command changes nothing. It prints the documents and commands for event notifications, which
    tell of stored and deleted objects within seconds, and for access logs, which tell of downloads
    hours later. Uploads need neither: the service looks for their objects when their slots end.

    \b
    Examples:
      python -m worker usage setup demo
      python -m worker usage setup demo --storage seaweedfs
    """
    bucket = _find(profile)
    if storage is None and not _is_on_aws(bucket):
        text = f"{bucket.name} is not on AWS: add --storage minio, rgw or seaweedfs"
        raise click.UsageError(text)
    storage = storage or "aws"
    names = SetupNames(
        bucket,
        account or bucket.owner or _EXAMPLE_ACCOUNT,
        queue or f"valetkey-{profile}",
        f"{bucket.bucket}-logs",
    )
    documents = setup_documents(storage, names)
    if output_format == "json":
        if not documents:
            raise click.UsageError(f"{storage} needs no documents: leave out --json for its steps")
        click.echo(json.dumps(documents))
        return
    for name, document in documents.items():
        click.echo(f"cat > {name} <<'END'\n{json.dumps(document, indent=2)}\nEND\n")
    click.echo(setup_steps(storage, names), nl=False)


def _is_on_aws(bucket: Bucket) -> bool:
    """Return true if the profile says so, and the default endpoint, if it applies, is AWS's."""
    if bucket.provider != "aws" or bucket.endpoint is not None:
        return bucket.provider == "aws"
    endpoint = DefaultEndpoints(Settings().s3_endpoint).public_of(bucket)
    return endpoint is None or (urlsplit(endpoint).hostname or "").endswith(_AWS_DOMAINS)


def _find(profile: str) -> Bucket:
    with open_database(read_transaction) as connection:
        buckets = load_config(connection).buckets
    bucket = buckets.get(profile)
    if bucket is None:
        hint = did_you_mean(profile, buckets)
        raise click.BadParameter(f"there is no bucket profile {profile!r}{hint}")
    if bucket.bucket.startswith("arn:"):
        text = f"{profile} is an access point: events and logs name the bucket behind it"
        raise click.UsageError(f"{text}, which needs a bucket profile of its own")
    return bucket
