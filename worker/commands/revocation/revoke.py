"""Takes grants back before their end."""

import json
from collections.abc import Iterable

import click
from pydantic import TypeAdapter

from valetkey.cli.format_options import format_option
from valetkey.delivery.transport import RESULT_PREFIX
from valetkey.wire.terms import Text
from worker.commands.broker import open_results
from worker.commands.database import open_engine, operator_account
from worker.commands.failures.cause import ServiceUnusable
from worker.commands.revocation.descriptions import as_json, describe
from worker.commands.revocation.targets import parse_option, read_target, target_options
from worker.context import create_context
from worker.errors import Malformed, Transient
from worker.settings import Settings
from worker.usecases.revocation.plan import RevocationPlan, plan_revocation
from worker.usecases.revocation.revoke import Author, RevocationResult
from worker.usecases.revocation.revoke import revoke as revoke_grants

_RESULTS_PER_CALL = 1_000
_TEXT: TypeAdapter[str] = TypeAdapter(Text)


@click.command("revoke")
@target_options
@click.option("--reason", metavar="TEXT", help="Why, for the audit log; 200 characters at most.")
@click.option("--yes", is_flag=True, help="Do it. Without this, nothing is changed.")
@format_option("--json", "Print one JSON object: the levers, and with --yes the result.")
@click.pass_context
def revoke(
    context: click.Context,
    /,
    *,
    reason: str | None,
    yes: bool,
    output_format: str | None,
    **targets: str | None,
) -> None:
    """Take grants back before their end. First show which ones, and which others would end too.

    A link cannot be called back: its holder has it. What can be done is to have storage refuse it.
    --yes adds a statement to the policy of the bucket, which denies these objects or prefixes to
    presigned requests, and removes it when the last of the grants has expired. On storage other
    than AWS it denies them to every request. The grants are not signed again. The command uses a
    link of its own to one of the objects, before and after, to prove that storage refuses it.

    \b
    Examples:
      python -m worker revoke --grant 0199a000-0000-7000-8000-000000000000.7
      python -m worker revoke --prefix s3://reports/acme/2026/ --reason "case 4711" --yes

    Exits with 1 if there is nothing to revoke, or storage may still accept a link.
    """
    author = Author(operator_account(), _parse_reason(reason))
    with open_engine() as engine:
        service = create_context(engine, Settings())
        try:
            plan = plan_revocation(read_target(targets, service.config.current()), service)
            is_done = yes and not plan.is_empty
            result = revoke_grants(plan, author, service, _forget) if is_done else None
        except (Malformed, Transient) as error:
            raise click.ClickException(f"{error}.") from None
    if output_format == "json":
        click.echo(json.dumps(as_json(plan, result)))
    else:
        click.echo("\n".join(describe(plan, result, is_done=yes)))
    context.exit(_exit_code(plan, result))


def _parse_reason(text: str | None) -> str | None:
    problem = "write 1 to 200 characters on one line"
    return None if text is None else parse_option("--reason", _TEXT, text, problem)


def _forget(chunks: Iterable[tuple[str, int]]) -> int:
    """Delete results that no producer has read, and return their number. Raises Transient."""
    keys = [f"{RESULT_PREFIX}{batch_id}.{chunk}" for batch_id, chunk in chunks]
    parts = range(0, len(keys), _RESULTS_PER_CALL)
    try:
        with open_results() as results:
            return sum(int(results.delete(*keys[i : i + _RESULTS_PER_CALL])) for i in parts)
    except ServiceUnusable as error:
        raise Transient(str(error)) from None


def _exit_code(plan: RevocationPlan, result: RevocationResult | None) -> int:
    if plan.is_empty:
        return 1
    return 0 if result is None or result.is_complete else 1
