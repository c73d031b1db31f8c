"""Takes grants back before their end."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence

import click
from pydantic import TypeAdapter

from valetkey.cli.format_options import format_option
from valetkey.delivery.transport import RESULT_PREFIX
from valetkey.wire.bundles import BUNDLE_TASK_PREFIX
from valetkey.wire.terms import Text
from worker.broker.queues import RESULT_INDEX
from worker.commands.broker import open_results
from worker.commands.database import open_engine, operator_account
from worker.commands.failures.cause import ServiceUnusable
from worker.commands.revocation.descriptions import (
    as_json,
    describe_plan,
    describe_record,
    describe_result,
    wrap_lines,
)
from worker.commands.revocation.targets import (
    parse_option,
    read_target,
    refuse_unknown,
    target_options,
)
from worker.context import Context, create_context
from worker.db.engine import read_transaction
from worker.errors import Malformed, Transient
from worker.setting_names import names_service
from worker.settings import Settings
from worker.usecases.revocation.plan import RevocationPlan, plan_revocation
from worker.usecases.revocation.results import Author, RevocationResult
from worker.usecases.revocation.revoke import revoke as revoke_grants

_RESULTS_PER_CALL = 1_000
_TEXT: TypeAdapter[str] = TypeAdapter(Text)


@click.command("revoke")
@target_options
@click.option("--reason", metavar="TEXT", help="Why, for the audit log; 200 characters at most.")
@click.option(
    "--end-sessions", is_flag=True, help="Also end all sessions of the roles that signed."
)
@click.option("--yes", is_flag=True, help="Do it. Without this, nothing is changed.")
@format_option("--json", "Print one JSON object: the levers, and with --yes the result.")
@click.pass_context
def revoke(
    context: click.Context,
    /,
    *,
    reason: str | None,
    end_sessions: bool,
    yes: bool,
    output_format: str | None,
    **targets: Sequence[str],
) -> None:
    """Take grants back before their end. First show which ones, and which others would end too.

    A link cannot be called back: its holder has it. What can be done is to have storage refuse it.
    --yes adds a statement to the policy of the bucket, which denies these objects or prefixes to
    presigned requests. The upkeep worker removes it when the last of the grants that it denies has
    expired. On storage other than AWS it denies them to every request, but need not deny forms. The
    grants are neither signed nor reissued again. The command uses a link of its own to one of the
    objects, before and after, to prove that storage refuses it. It does not try uploads.

    --end-sessions has IAM end the sessions of the roles, and all links that they have signed.

    \b
    Examples:
      python -m worker revoke --grant 0199a000-0000-7000-8000-000000000000.7
      python -m worker revoke --prefix s3://reports/acme/2026/ --reason "case 4711" --yes

    Exits with 1 if there is nothing to revoke, or storage may still accept a link or an upload.
    """
    author = Author(operator_account(), _parse_reason(reason))
    _refuse_defaults()
    with open_engine() as engine:
        service = create_context(engine, Settings())
        try:
            plan = _plan(targets, service, ends_sessions=end_sessions)
            _print_plan(plan, output_format, is_done=yes)
            result = None if plan.is_empty or not yes else _revoke(plan, author, service, context)
        except (Malformed, Transient) as error:
            raise click.ClickException(f"{error}.") from None
    _print_result(plan, result, output_format)
    context.exit(_exit_code(plan, result))


def _print_plan(plan: RevocationPlan, output_format: str | None, *, is_done: bool) -> None:
    if output_format != "json":
        _print(describe_plan(plan, is_done=is_done))


def _print_result(
    plan: RevocationPlan, result: RevocationResult | None, output_format: str | None
) -> None:
    if output_format == "json":
        click.echo(json.dumps(as_json(plan, result)))
    elif result is not None:
        _print(describe_result(result))


def _print(lines: Iterable[str]) -> None:
    for line in wrap_lines(lines):
        click.echo(line)


def _refuse_defaults() -> None:
    """Refuse the folder of a `dev` that does not run: its endpoint would be AWS instead."""
    if not names_service(os.environ):
        raise click.ClickException(
            "No setting names a service, and no `dev` runs here or in a parent folder: start"
            " `python -m worker dev`, or set VALETKEY_DATABASE_URL."
        )


def _revoke(
    plan: RevocationPlan, author: Author, service: Context, context: click.Context
) -> RevocationResult:
    """Do a plan. Says on stderr at once that it is recorded: what follows can take a minute."""
    recorded: list[str] = []

    def tell(revocation_id: str) -> None:
        recorded.append(revocation_id)
        for line in wrap_lines([describe_record(plan, revocation_id)]):
            click.echo(line, err=True)

    try:
        return revoke_grants(plan, author, service, _forget, tell)
    except KeyboardInterrupt:
        text = "Interrupted before anything was recorded."
        if recorded:
            text = (
                "Interrupted: it is recorded, but storage may still accept the links. The same"
                " command goes on."
            )
        click.echo(text, err=True)
        context.exit(130)


def _plan(
    targets: Mapping[str, Sequence[str]], service: Context, *, ends_sessions: bool
) -> RevocationPlan:
    config = service.config.current()
    target = read_target(targets, config)
    plan = plan_revocation(target, service, ends_sessions=ends_sessions)
    if plan.is_empty:
        with read_transaction(service.engine) as connection:
            refuse_unknown(connection, target, config)
    if ends_sessions and plan.targeted and not plan.session_ends:
        raise click.ClickException(
            "No role's session signed these grants: omit --end-sessions. Nothing was done."
        )
    return plan


def _parse_reason(text: str | None) -> str | None:
    problem = "write 1 to 200 characters on one line"
    return None if not text else parse_option("--reason", _TEXT, text, problem)


def _forget(chunks: Iterable[tuple[str, int]]) -> int:
    """Delete results that no producer has read, and return their number. Raises Transient.

    Those of bundles are all deleted: the result does not say which batches it is of. A producer
    that waits for another batch of a bundle sends its messages again, alone.
    """
    chunks = list(chunks)
    keys = [f"{RESULT_PREFIX}{batch_id}.{chunk}".encode() for batch_id, chunk in chunks]
    try:
        with open_results() as results:
            for batch_id in sorted({batch_id for batch_id, _ in chunks}):
                names = results.smembers(RESULT_INDEX + batch_id)
                keys += [RESULT_PREFIX.encode() + name for name in names]
            bundles = f"{RESULT_PREFIX}{BUNDLE_TASK_PREFIX}*"
            keys += results.scan_iter(bundles, _RESULTS_PER_CALL) if keys else ()
            parts = range(0, len(keys), _RESULTS_PER_CALL)
            return sum(int(results.delete(*keys[i : i + _RESULTS_PER_CALL])) for i in parts)
    except ServiceUnusable as error:
        raise Transient(str(error)) from None


def _exit_code(plan: RevocationPlan, result: RevocationResult | None) -> int:
    if plan.is_empty:
        return 1
    return 0 if result is None or result.is_complete else 1
