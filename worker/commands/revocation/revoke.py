"""Takes grants back before their end."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import click

from valetkey.cli.format_options import format_option
from valetkey.delivery.transport import RESULT_PREFIX
from worker.commands.broker import open_results
from worker.commands.database import open_engine, operator_account
from worker.commands.revocation.descriptions import as_json, describe
from worker.commands.revocation.targets import read_target, target_options
from worker.context import Context, create_context
from worker.errors import Malformed, Transient
from worker.settings import Settings
from worker.usecases.revocation.plan import RevocationPlan, plan_revocation
from worker.usecases.revocation.revoke import Author, RevocationResult
from worker.usecases.revocation.revoke import revoke as revoke_grants

_RESULTS_PER_CALL = 1_000


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
    than AWS it denies them to every request. The grants are not signed again, and the command uses
    one of the links to prove that it is refused.

    \b
    Examples:
      python -m worker revoke --grant 0199a000-0000-7000-8000-000000000000.7
      python -m worker revoke --prefix s3://reports/acme/2026/ --reason "case 4711" --yes
    """
    if reason is not None and len(reason) > 200:  # noqa: PLR2004 - as the option's help says
        raise click.BadParameter("it has more than 200 characters", param_hint="--reason")
    with open_engine() as engine:
        service = create_context(engine, Settings())
        try:
            plan = plan_revocation(read_target(targets, service.config.current()), service)
            result = _revoke(plan, reason, service) if yes and plan.targeted else None
        except (Malformed, Transient) as error:
            raise click.ClickException(f"{error}.") from None
    if output_format == "json":
        click.echo(json.dumps(as_json(plan, result)))
    else:
        click.echo("\n".join(describe(plan, result, is_done=yes)))
    context.exit(_exit_code(plan, result))


def _revoke(plan: RevocationPlan, reason: str | None, service: Context) -> RevocationResult:
    author = Author(operator_account(), reason)
    with open_results() as results:
        return revoke_grants(plan, author, service, _forget(results))


def _forget(results: Any) -> Callable[[Iterable[tuple[str, int]]], int]:
    """Return a function that deletes results which no producer has read."""

    def forget(chunks: Iterable[tuple[str, int]]) -> int:
        keys = [f"{RESULT_PREFIX}{batch_id}.{chunk}" for batch_id, chunk in chunks]
        parts = range(0, len(keys), _RESULTS_PER_CALL)
        return sum(int(results.delete(*keys[i : i + _RESULTS_PER_CALL])) for i in parts)

    return forget


def _exit_code(plan: RevocationPlan, result: RevocationResult | None) -> int:
    if not plan.targeted:
        return 1
    if result is None:
        return 0
    is_failed = result.problems or result.is_proven is False or not result.denied
    return 1 if is_failed else 0
