"""Lists messages that could not be read or authenticated."""

from datetime import UTC
from typing import Any

import click

from worker.base.database_engine import read_transaction
from worker.cli.command_options import (
    format_options,
    limit_option,
    refuse_empty_range,
    since_option,
    tenant_option,
    zone_option,
)
from worker.cli.database import open_database
from worker.cli.output import print_first_page
from worker.ledger import rejections


@click.command("rejections")
@tenant_option
@since_option
@zone_option
@limit_option
@format_options
def list_rejections(*, output_format: Any, limit: int, zone: Any, **filters: Any) -> None:
    """Count, by hour, the messages that could not be read or authenticated.

    The code not_recorded counts refused messages beyond what a day records without a charge.
    The tenant is the one that a message named, which does not prove that it sent the message.
    last_digest is the SHA-256 of the last message, to find that message by. --since includes the
    whole hour that contains the moment.

    \b
    Example:
      python -m worker audit rejections --tenant acme --since 1d
    """
    refuse_empty_range(filters["since"], None)
    with open_database(read_transaction) as connection:
        page = rejections.read_rejection_counts(connection, limit, **filters)
    print_first_page(rejections.RejectionRecord._fields, page, output_format, zone or UTC)
