import sys
from typing import Any

import click

from valetkey.cli.arguments import reissue_options, snippet_options
from valetkey.cli.commands import base
from valetkey.cli.parameter_types import EXPIRY, GRANT_ID
from valetkey.cli.printable import escape_unprintable
from valetkey.cli.results import output
from valetkey.cli.results.formats import get_format
from valetkey.cli.snippets.page import PAGE_KINDS
from valetkey.client import Client
from valetkey.wire.replies import Grant


@click.command()
@click.argument("grant_id", type=GRANT_ID, metavar="GRANT")
@click.option(
    "--expires-in",
    type=EXPIRY,
    help="The time until the new grant expires; by default as requested for the earlier one.",
)
@snippet_options("curl", "html", "js")
@reissue_options
def reissue(grant_id: str, **options: Any) -> None:
    """Print a fresh link or form for the object of an earlier grant.

    \b
    valetkey reissue 0199a000-0000-7000-8000-000000000000.0 --reason "the mail was opened late"
    valetkey reissue 0199a000-0000-7000-8000-000000000000.0 --expires-in 15m --json

    The earlier grant may have expired. The new one has the same key and the same terms, is decided
    by the policy and the quotas of today, and is charged as any other. The audit log names the
    grant that it was issued again for. A multipart upload cannot be issued again.
    """
    request = {name: options[name] for name in ("expires_in", "reason", "recipient")}
    with base.report_errors(options), base.open_client(options) as client:
        if options["output_format"] == "html":
            _require_page(client, grant_id, options["timeout"])
        handle = client.reissue(grant_id, **request)
        grant = handle.result(options["timeout"])
    name = options["output_format"] or _default_format(grant)
    sys.stdout.write(get_format(name).render(grant))
    output.print_quota_warnings(handle.batch.quotas)


def _require_page(client: Client, grant_id: str, timeout: float) -> None:
    """Raise click.UsageError for a kind without a page, before the new grant is charged."""
    kind = client.status(grant_id, probe=False, timeout=timeout).kind
    if kind not in PAGE_KINDS:
        text = f"a grant of the kind {escape_unprintable(kind)} has no page: leave out --html"
        raise click.UsageError(text)


def _default_format(grant: Grant) -> str:
    is_link = grant.method in {"GET", "HEAD"} and not grant.headers
    return "url" if is_link else "form"
