from typing import Any

import click

from valetkey.cli.arguments import link_options
from valetkey.cli.commands import base
from valetkey.cli.locations import object_argument
from valetkey.cli.results import output


@click.command()
@object_argument
@link_options
def presign(
    bucket: str,
    key: str,
    expires_in: int,
    reason: str | None,
    recipient: str | None,
    **options: Any,
) -> None:
    """Print a link to one object, and nothing else.

    \b
    valetkey presign s3://reports/2026/11/u-1.pdf
    valetkey presign s3://reports/2026/11/u-1.pdf --expires-in 7d

    Unlike in `aws s3 presign`, the name after s3:// is that of a bucket profile of the service.
    `valetkey download` has more options, and prints links to several objects.
    """
    with base.report_errors(options), base.open_client(options) as client:
        handle = client.download(
            bucket, key, expires_in=expires_in, reason=reason, recipient=recipient
        )
        grant = handle.result(options["timeout"])
    click.echo(grant.url)
    output.print_quota_warnings(handle.batch.quotas)
