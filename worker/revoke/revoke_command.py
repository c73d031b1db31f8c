"""The command `revoke`: its targets, and the text of plans and results."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import TextWrapper
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection

from valetkey.cli.format_options import format_option
from valetkey.delivery.transport import RESULT_PREFIX
from valetkey.units import format_utc
from valetkey.wire.messages import BUNDLE_TASK_PREFIX, BatchId, GrantId
from valetkey.wire.terms import Text
from worker.base.database_engine import read_transaction
from worker.broker.queues import RESULT_INDEX
from worker.cli.database import open_engine, operator_account
from worker.cli.found_service import names_service
from worker.cli.redis_servers import open_results
from worker.cli.service_failures import ServiceUnusable
from worker.context import Context, create_context
from worker.errors import Malformed, Transient
from worker.revoke.levers import Denial, Lever
from worker.revoke.proofs import Proof
from worker.revoke.revocation import Author, RevocationResult
from worker.revoke.revocation import revoke as revoke_grants
from worker.revoke.revocation_plan import RevocationPlan, plan_revocation, was_issued
from worker.revoke.revocation_targets import Target, TargetKind
from worker.rules.tenant_config import TenantConfig
from worker.settings import Settings
from worker.shared.command_options import Command
from worker.shared.pages import did_you_mean
from worker.shared.tenant_history import UnknownName, check_tenant

_TARGETS: Mapping[TargetKind, tuple[str, str]] = {
    "grant": ("[TENANT/]BATCH.NUMBER", "One grant, by its id."),
    "batch": ("[TENANT/]BATCH", "All grants of a batch. What it has not issued yet is cancelled."),
    "key": ("s3://PROFILE/KEY", "All grants of one object."),
    "prefix": ("s3://PROFILE/PREFIX", "All grants of objects whose keys begin so."),
    "tenant": ("TENANT", "All grants of a tenant. What it has not been issued yet is cancelled."),
    "credentials": ("ACCESS_KEY", "All grants that this access key signed, by its public id."),
}
_IDS: Mapping[str, tuple[TypeAdapter[str], str]] = {
    "grant": (TypeAdapter(GrantId), "an id of a grant is a batch id, a dot and a number"),
    "batch": (TypeAdapter(BatchId), "this is not the id of a batch"),
}
_UNKNOWN: Mapping[TargetKind, str] = {
    "grant": "the audit log has no such grant: `audit list` finds its id",
    "batch": "the audit log has no such batch: `audit list` finds its id",
    "credentials": "no grant was signed with this access key: `audit show` of a grant names it",
}
_S3 = "s3://"


def target_options(command: Command) -> Command:
    """Add an option for each kind of target to a command."""
    for kind, (metavar, text) in reversed(list(_TARGETS.items())):
        command = click.option(f"--{kind}", metavar=metavar, multiple=True, help=text)(command)
    return command


def read_target(targets: Mapping[str, Sequence[str]], config: TenantConfig) -> Target:
    """Return the target that the options name. Raises click.UsageError."""
    given = [(kind, value) for kind in _TARGETS for value in targets[kind]]
    if len(given) != 1:
        names = ", ".join(f"--{kind}" for kind in _TARGETS)
        text = f"Give one of {names}."
        raise click.UsageError(f"{text} Run the command once for each target." if given else text)
    kind, text = given[0]
    if kind in {"key", "prefix"}:
        return _read_location(kind, text, config)
    if kind in _IDS:
        tenant, _, id_ = text.rpartition("/")  # tenants choose the ids of their batches
        return Target(kind, parse_option(f"--{kind}", *_IDS[kind], id_), tenant=tenant or None)
    if not text:
        raise click.BadParameter("it is empty", param_hint=f"--{kind}")
    return Target(kind, text)


def refuse_unknown(connection: Connection, target: Target, config: TenantConfig) -> None:
    """Raise click.BadParameter if a target names something that never was."""
    option = f"--{target.kind}"
    tenant = target.value if target.kind == "tenant" else target.tenant
    try:
        if tenant is not None:
            check_tenant(connection, tenant)
    except UnknownName as error:
        raise click.BadParameter(str(error), param_hint=option) from None
    problem = _UNKNOWN.get(target.kind)
    if problem and not was_issued(connection, target, config):
        raise click.BadParameter(problem, param_hint=option)


def parse_option(option: str, adapter: TypeAdapter[str], problem: str, value: str) -> str:
    """Return the value of an option as the wire has it. Raises click.BadParameter."""
    try:
        return adapter.validate_python(value)
    except ValidationError:
        raise click.BadParameter(problem, param_hint=option) from None


def _read_location(kind: TargetKind, text: str, config: TenantConfig) -> Target:
    profile, slash, key = text.removeprefix(_S3).partition("/")
    option = f"--{kind}"
    if kind == "prefix" and text.startswith(_S3) and profile and not key:
        problem = f"the prefix is empty: write {_TARGETS[kind][0]}, or revoke a --tenant"
        raise click.BadParameter(problem, param_hint=option)
    if not text.startswith(_S3) or not slash or not key:
        raise click.BadParameter(f"write {_TARGETS[kind][0]}", param_hint=option)
    if profile not in config.buckets:
        text = f"there is no bucket profile {profile!r}{did_you_mean(profile, config.buckets)}"
        raise click.BadParameter(text, param_hint=option)
    return Target(kind, key, profile)


_LEVERS = {
    "deny": "deny it in the policy of bucket",
    "end_sessions": "end all sessions until now of role",
    "disable_access_key": "disable access key",
}
_PROOFS: Mapping[Proof, str] = {
    "proven": "Proven: storage served a link to one of the objects before, and refuses it now.",
    "repeated": "Done already: storage refuses a link to one of the objects, as it did before.",
    "accepted": "Error: storage still accepts a link to one of the objects: pull another lever.",
    "untried": "Error: not proven: storage served no link that could be tried before the denial.",
}
_SESSION_PROOFS: Mapping[Proof, str] = {
    "proven": "Proven: storage answered a session from before, and refuses it now.",
    "accepted": "Error: storage still answers a session from before: IAM may take a few minutes.",
    "untried": "Error: not proven: storage answered no session that could be tried before.",
}
_CAUSES = (
    "  Likely causes: storage ignores bucket policies or conditions in them, the access key of the"
    " profile is above policies (an administrator's), or the policy takes effect later."
)
_SHOWN_TENANTS = 5
_VERBATIM = " " * 8


def describe_plan(plan: RevocationPlan, *, is_done: bool) -> Iterator[str]:
    """Yield the lines about a plan; is_done, if it will be done now."""
    if plan.is_empty:
        yield "No live grant matches: there is nothing to revoke."
        return
    if plan.targeted:
        last = max(grant.expires_at for grant in plan.targeted)
        number = _count(len(plan.targeted), "live grant")
        yield f"{number}, {'the last ' if len(plan.targeted) > 1 else ''}until {format_utc(last)}"
    if plan.target.kind in {"grant", "batch"} and len(plan.tenants) > 1:
        yield f"Several tenants chose this batch id: {', '.join(plan.tenants)}"
        yield f"  To revoke one tenant's alone: {plan.tenants[0]}/{plan.target.value}"
    for lever in plan.levers:
        yield from _describe_lever(lever, plan)
    if plan.unsent:
        verb = "that is" if len(plan.unsent) == 1 else "that are"
        yield f"  - cancel {_count(len(plan.unsent), 'batch')} {verb} not issued completely"
    if not is_done:
        yield "Nothing was changed. To do it, add --yes."


def _describe_lever(lever: Lever, plan: RevocationPlan) -> Iterator[str]:
    yield f"  - {_LEVERS[lever.name]} {lever.where}"
    if isinstance(lever, Denial):
        yield f"      at {lever.host or 'an unknown host'}"
    yield f"      ends {_format_counts(lever.ends, 'grant')}"
    others = _format_counts(lever.others, "other grant") if lever.others else "no other grants"
    yield f"      and {others}"
    if isinstance(lever, Denial) and not lever.problem:
        yield from _describe_denial(lever, plan)
    if lever.name == "end_sessions" and not plan.ends_sessions:
        yield "      only with --end-sessions"
    if lever.problem:
        yield f"      not done by this command: {lever.problem}"
    if lever.manual:
        yield "      by hand:"
        yield f"{_VERBATIM}{lever.manual}"


def _describe_denial(denial: Denial, plan: RevocationPlan) -> Iterator[str]:
    yield f"      until {format_utc(denial.lapses_at)}, new grants of these objects fail as well"
    has_forms = any(
        grant.kind == "upload" and grant.full_id in denial.targets for grant in plan.targeted
    )
    if has_forms and not denial.is_aws:
        yield "      storage other than AWS may still accept forms: SeaweedFS does"
    if earlier := plan.earlier.get(denial.where):
        yield (
            f"      denied already by {earlier.revoked_by} at {format_utc(earlier.revoked_at)}:"
            " no statement is added"
        )


def wrap_lines(lines: Iterable[str]) -> Iterator[str]:
    """Wrap lines to 80 columns, with the indentation of each. Commands to copy stay whole."""
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip(" -")))
        wrapper = TextWrapper(
            80, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        yield from [line] if line.startswith(_VERBATIM) else wrapper.wrap(line)


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("ch") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def _format_counts(counts: Mapping[str, int], noun: str) -> str:
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    (first, number), *rest = ordered[:_SHOWN_TENANTS]
    texts = [f"{_count(number, noun)} of {first}", *(f"{n:,} of {name}" for name, n in rest)]
    more = len(ordered) - _SHOWN_TENANTS
    return ", ".join(texts) + (f" and of {more:,} other tenants" if more > 0 else "")


def describe_result(result: RevocationResult) -> Iterator[str]:
    """Yield the lines about the result of a plan that was done."""
    if result.cancelled:
        yield f"Cancelled: {_count(result.cancelled, 'batch')}."
    if result.unread:
        yield f"Deleted: {_count(result.unread, 'result')} that nobody had read."
    for problem in result.problems:
        yield f"Error: {problem}. Revoke once more."
    if result.left:
        yield (
            f"Error: storage still accepts {result.left:,} of {result.grants:,} grants: no lever of"
            " this command ended them."
        )
    for where in sorted(result.proofs.keys() - result.ended_roles.keys()):
        yield f"{_PROOFS[result.proofs[where]]} ({where})"
        if result.proofs[where] == "accepted":
            yield _CAUSES
    for role_arn, moment in result.ended_roles.items():
        yield f"Sessions from before {format_utc(moment)} are ended. ({role_arn})"
        if role_arn in result.proofs:
            yield f"{_SESSION_PROOFS[result.proofs[role_arn]]} ({role_arn})"
    if result.unproven:
        kinds = ", ".join(f"{count:,} of kind {kind}" for kind, count in result.unproven.items())
        yield f"Error: not proven for {kinds}: storage may still accept them. Try one of them."


def plan_as_json(plan: RevocationPlan, result: RevocationResult | None) -> dict[str, Any]:
    """Return a plan and its result as JSON values."""
    return {
        "target": {"kind": plan.target.kind, "value": plan.target.value},
        "grants": len(plan.targeted),
        "levers": [
            {
                "lever": lever.name,
                "where": lever.where,
                "host": lever.host if isinstance(lever, Denial) else None,
                "ends": dict(lever.ends),
                "others": dict(lever.others),
                "problem": lever.problem,
                "manual": lever.manual,
            }
            for lever in plan.levers
        ],
        "unsent_batches": len(plan.unsent),
        "result": None
        if result is None
        else {
            "revocation": result.revocation_id,
            "left": result.left,
            "denied": [lever.where for lever in result.denied],
            "ended_sessions": {
                role_arn: format_utc(moment) for role_arn, moment in result.ended_roles.items()
            },
            "problems": list(result.problems),
            "cancelled": result.cancelled,
            "unread_results_deleted": result.unread,
            "proven": result.is_proven,
            "unproven": dict(result.unproven),
        },
    }


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
    """Revoke grants before they expire. First show which ones, and which others would end too.

    A link cannot be withdrawn from its holder, but storage can be made to refuse it.
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
            _print([] if output_format == "json" else describe_plan(plan, is_done=yes))
            result = None if plan.is_empty or not yes else _revoke(plan, author, service, context)
        except (Malformed, Transient) as error:
            raise click.ClickException(f"{error}.") from None
    _print_result(plan, result, output_format)
    context.exit(int(plan.is_empty or (result is not None and not result.is_complete)))


def _parse_reason(text: str | None) -> str | None:
    problem = "write 1 to 200 characters on one line"
    return parse_option("--reason", _TEXT, problem, text) if text else None


def _print_result(
    plan: RevocationPlan, result: RevocationResult | None, output_format: str | None
) -> None:
    if output_format == "json":
        click.echo(json.dumps(plan_as_json(plan, result)))
    elif result is not None:
        _print(describe_result(result))


def _print(lines: Iterable[str], *, err: bool = False) -> None:
    for line in wrap_lines(lines):
        click.echo(line, err=err)


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

    def on_recorded(revocation_id: str) -> None:
        recorded.append(revocation_id)
        again = "the grants are neither signed nor reissued again."
        if plan.target.kind == "credentials":
            again = "other credentials may sign the grants again."
        _print([f"Revocation {revocation_id} is recorded: {again}"], err=True)

    try:
        return revoke_grants(plan, author, service, _forget, on_recorded)
    except KeyboardInterrupt:
        text = "Interrupted before anything was recorded."
        if recorded:
            text = (
                "Interrupted: it is recorded, but storage may still accept the links. Repeat the"
                " same command to continue."
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
