"""Prints how to configure storage, so that it tells of uses."""

import json
from typing import get_args

import click

from valetkey.cli.format_options import format_option
from worker.commands.database import open_database
from worker.core.tenants.config import Bucket
from worker.core.uses.storage_setup import SetupNames, Storage, setup_documents, setup_steps
from worker.db.audit.selection.similar_names import did_you_mean
from worker.db.engine import read_transaction
from worker.db.tenants import load_config

_EXAMPLE_ACCOUNT = "111122223333"


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
    help=f"The AWS account of bucket and queue; unset: the profile's owner, or {_EXAMPLE_ACCOUNT}.",
)
@click.option("--queue", metavar="NAME", help="The name of the queue; unset: valetkey-PROFILE.")
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
      python -m worker usage setup reports
      python -m worker usage setup onsite --storage rgw
    """
    bucket = _find(profile)
    if storage is None:
        if bucket.provider != "aws":
            text = f"{profile} is not on AWS: add --storage minio, rgw or seaweedfs"
            raise click.UsageError(text)
        storage = "aws"
    names = SetupNames(
        bucket,
        account or bucket.owner or _EXAMPLE_ACCOUNT,
        queue or f"valetkey-{profile}",
        f"{bucket.bucket}-logs",
    )
    documents = setup_documents(storage, names)
    if output_format == "json":
        click.echo(json.dumps(documents))
        return
    for name, document in documents.items():
        click.echo(f"cat > {name} <<'END'\n{json.dumps(document, indent=2)}\nEND\n")
    click.echo(setup_steps(storage, names), nl=False)


def _find(profile: str) -> Bucket:
    with open_database(read_transaction) as connection:
        buckets = load_config(connection).buckets
    bucket = buckets.get(profile)
    if bucket is None:
        hint = did_you_mean(profile, buckets)
        raise click.BadParameter(f"there is no bucket profile {profile!r}{hint}")
    return bucket
