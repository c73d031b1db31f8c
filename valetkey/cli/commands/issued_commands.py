"""The commands about grants that were issued, cancel and reissue; and waiting for an object."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, cast

import click

from valetkey.cli import result_output
from valetkey.cli.client_options import cancel_options, reissue_options, snippet_options
from valetkey.cli.command_groups import INTERRUPTED
from valetkey.cli.commands import command_base
from valetkey.cli.formats import get_renderer
from valetkey.cli.parameter_types import BATCH_ID, EXPIRY, GRANT_ID
from valetkey.cli.snippets.upload_page import PAGE_KINDS
from valetkey.cli.tables import describe_stored, stored_json
from valetkey.cli.terminal_text import escape_unprintable, next_command, stderr_console
from valetkey.client import Client
from valetkey.errors import BrokerUnreachable, NoAnswer, NotStored, Refused
from valetkey.handles import GrantHandle
from valetkey.waits import STORED_TIMEOUT
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.options import ReissueOptions
from valetkey.wire.refusals import Code
from valetkey.wire.replies import Grant


@click.command()
@click.argument("batch_id", type=BATCH_ID)
@click.option(
    "--abort-uploads",
    is_flag=True,
    help="Also abort unfinished multipart uploads of the batch, and give their bytes back.",
)
@cancel_options
def cancel(batch_id: str, reason: str | None, *, abort_uploads: bool, **options: Any) -> None:
    """Cancel a batch: grant no further items, and release its reserved quota.

    \b
    valetkey cancel 0199a000-0000-7000-8000-000000000000 --reason "wrong month"

    Grants that were issued before stay valid until they expire, and stay charged. A batch that has
    not reached the service yet is refused when it does; the command says so, and exits with 1.
    """
    with command_base.report_errors(options), command_base.open_client(options) as client:
        cancelled = client.cancel(batch_id, reason, options["timeout"], abort_uploads=abort_uploads)
        has_arrived = bool(cancelled.issued or cancelled.released) or _is_known(
            client, batch_id, options["timeout"]
        )
    if options["output_format"] == "json":
        click.echo(cancelled.model_dump_json(exclude_none=True))
    if not has_arrived:
        click.echo(
            f"no message of a batch {batch_id} of this tenant has reached the service: check the "
            "id. If the batch arrives later, it is refused",
            err=True,
        )
        sys.exit(1)
    if options["output_format"] is None:
        click.echo(
            f"cancelled: {cancelled.issued:,} granted before, {cancelled.released:,} released"
            + (f", {cancelled.aborting:,} uploads are aborted" if abort_uploads else "")
        )


def _is_known(client: Client, batch_id: str, timeout: float) -> bool:
    """Return whether any message of a batch has reached the service."""
    try:
        client.batch(batch_id, timeout)
    except Refused as error:
        if error.refusal.code == Code.BATCH_UNKNOWN:
            return False
        raise
    return True


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
    request = cast("ReissueOptions", {n: options[n] for n in ReissueOptions.__annotations__})
    with command_base.report_errors(options), command_base.open_client(options) as client:
        if options["output_format"] == "html":
            _require_page(client, grant_id, options["timeout"])
        handle = client.reissue(grant_id, **request)
        grant = handle.result(options["timeout"])
    name = options["output_format"] or _default_format(grant)
    sys.stdout.write(get_renderer(name)(grant))
    result_output.print_quota_warnings(handle.batch.quotas)


def _require_page(client: Client, grant_id: str, timeout: float) -> None:
    """Raise click.UsageError for a kind without a page, before the new grant is charged."""
    kind = client.status(grant_id, probe=False, timeout=timeout).kind
    if kind not in PAGE_KINDS:
        text = f"a grant of the kind {escape_unprintable(kind)} has no page: leave out --html"
        raise click.UsageError(text)


def _default_format(grant: Grant) -> str:
    is_link = grant.method in {"GET", "HEAD"} and not grant.headers
    return "url" if is_link else "form"


def wait_until_stored(handle: GrantHandle, options: Mapping[str, Any]) -> None:
    """Wait until storage has the object, and describe it on stderr; with --json also on stdout.

    Without --timeout, the wait takes at most STORED_TIMEOUT. Raises as BatchHandle.stored does. If
    the wait can continue, the error names the command for it: to repeat this one is charged again.
    """
    sys.stdout.flush()  # a shell behind a pipe runs the printed command meanwhile
    errors = stderr_console()
    status = "waiting until storage has the object"
    try:
        with errors.status(status) if errors.is_terminal else nullcontext():
            stored = handle.batch.stored(0, command_base.select_timeout(options, STORED_TIMEOUT))
    except NotStored as error:
        if error.use.state != "open":
            raise
        text = f"{error.use.key!r} is not known to be stored yet\n{_next_step(handle)}"
        raise command_base.StorageFailure(text) from None
    except (NoAnswer, BrokerUnreachable) as error:
        raise command_base.NoResponseError(f"{error}\n{_next_step(handle)}") from None
    except KeyboardInterrupt:
        click.echo(f"interrupted\n{_next_step(handle)}", err=True)
        sys.exit(INTERRUPTED)
    click.echo(describe_stored(stored), err=True)
    if options["output_format"] == "json":
        click.echo(stored_json(stored))


def _next_step(handle: GrantHandle) -> str:
    return f"Next: {next_command('status', grant_id(handle.id, 0), '--watch')}"
