"""The command `audit rejections`. Unlike the other lists, it loads pydantic."""

from typing import Any

import click

from worker.cli.output import first_page_options, print_first_page
from worker.ledger.rejections import RejectionRecord, read_rejection_counts


@click.command("rejections")
@first_page_options
def list_rejections(**options: Any) -> None:
    """Count, by hour, the messages that could not be read or authenticated.

    The code not_recorded counts refused messages beyond what a day records without a charge.
    The tenant is the one that a message named, which does not prove that it sent the message.
    last_digest is the SHA-256 of the last message, to find that message by. --since includes the
    whole hour that contains the moment.

    \b
    Example:
      python -m worker audit rejections --tenant acme --since 1d
    """
    print_first_page(RejectionRecord._fields, read_rejection_counts, options, checks_tenant=False)
