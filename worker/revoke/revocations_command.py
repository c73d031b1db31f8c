"""Lists revocations."""

from typing import Any

import click

from worker.cli.output import first_page_options, print_first_page
from worker.revoke.revocation_rows import RevocationRecord, read_revocations


@click.command("revocations")
@first_page_options
def list_revocations(**options: Any) -> None:
    """List revocations, newest first, with who revoked what and why.

    A revocation has a row for each tenant whose grants it ended. The column until is the end of the
    last of them, and statements are the buckets whose policies still have a statement of it.

    \b
    Example:
      python -m worker audit revocations --tenant acme
    """
    print_first_page(RevocationRecord._fields, read_revocations, options)
