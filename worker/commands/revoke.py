"""Takes grants back before their end."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import click

from valetkey.cli.format_options import format_option
from valetkey.delivery.transport import RESULT_PREFIX
from valetkey.units import format_utc
from worker.commands.broker import open_results
from worker.commands.database import open_engine, operator_account
from worker.commands.options import Command
from worker.context import Context, create_context
from worker.core.revocation.levers import Lever
from worker.core.revocation.targets import Target, TargetKind
from worker.core.tenants.config import TenantConfig
from worker.core.tenants.fields import closest_name
from worker.errors import Malformed, Transient
from worker.settings import Settings
from worker.usecases.revocation.plan import RevocationPlan, plan_revocation
from worker.usecases.revocation.revoke import Author, RevocationResult
from worker.usecases.revocation.revoke import revoke as revoke_grants

_TARGETS: Mapping[TargetKind, tuple[str, str]] = {
    "grant": ("BATCH.NUMBER", "One grant, by its id."),
    "batch": ("BATCH", "All grants of a batch. What it has not issued yet is cancelled."),
    "key": ("s3://PROFILE/KEY", "All grants of one object."),
    "prefix": ("s3://PROFILE/PREFIX", "All grants of objects whose keys begin so."),
    "tenant": ("TENANT", "All grants of a tenant. What it has not been issued yet is cancelled."),
    "credentials": ("ACCESS_KEY", "All grants that this access key signed, by its public id."),
}
_is_batch = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
_is_item = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII).fullmatch
_S3 = "s3://"
_LEVERS = {
    "deny": "deny it in the policy of bucket",
    "end_sessions": "end the sessions",
    "disable_access_key": "disable access key",
}
_SHOWN_TENANTS = 5
_RESULTS_PER_CALL = 1_000


def _target_options(command: Command) -> Command:
    for kind, (metavar, text) in reversed(list(_TARGETS.items())):
        command = click.option(f"--{kind}", metavar=metavar, help=text)(command)
    return command


@click.command("revoke")
@_target_options
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
            plan = plan_revocation(_read_target(targets, service.config.current()), service)
            result = _revoke(plan, reason, service) if yes and plan.targeted else None
        except (Malformed, Transient) as error:
            raise click.ClickException(f"{error}.") from None
    if output_format == "json":
        click.echo(json.dumps(_as_json(plan, result)))
    else:
        click.echo("\n".join(_describe(plan, result, is_done=yes)))
    context.exit(_exit_code(plan, result))


def _read_target(targets: Mapping[str, str | None], config: TenantConfig) -> Target:
    given = [(kind, targets[kind]) for kind in _TARGETS if targets[kind] is not None]
    if len(given) != 1:
        names = ", ".join(f"--{kind}" for kind in _TARGETS)
        raise click.UsageError(f"Give one of {names}.")
    kind, value = given[0]
    text = value or ""
    if kind in {"key", "prefix"}:
        return _read_location(kind, text, config)
    batch_id, _, item = text.rpartition(".")
    if kind == "grant" and not (_is_batch(batch_id) and _is_item(item)):
        raise click.BadParameter(
            "an id of a grant is a batch id, a dot and a number", param_hint="--grant"
        )
    if kind == "batch" and not _is_batch(text):
        raise click.BadParameter("this is not the id of a batch", param_hint="--batch")
    if not text:
        raise click.BadParameter("it is empty", param_hint=f"--{kind}")
    return Target(kind, text)


def _read_location(kind: TargetKind, text: str, config: TenantConfig) -> Target:
    profile, slash, key = text.removeprefix(_S3).partition("/")
    option = f"--{kind}"
    if not text.startswith(_S3) or not slash or not key:
        raise click.BadParameter(f"write {_TARGETS[kind][0]}", param_hint=option)
    if profile not in config.buckets:
        hint = closest_name(profile, config.buckets)
        suggestion = f": did you mean {hint}?" if hint else ""
        text = f"there is no bucket profile {profile!r}{suggestion}"
        raise click.BadParameter(text, param_hint=option)
    return Target(kind, key, profile)


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


def _describe(
    plan: RevocationPlan, result: RevocationResult | None, *, is_done: bool
) -> Iterator[str]:
    if not plan.targeted:
        yield "No live grant matches: there is nothing to revoke."
        return
    last = max(grant.expires_at for grant in plan.targeted)
    yield f"{len(plan.targeted):,} live grants, the last until {format_utc(last)}"
    for lever in plan.levers:
        yield from _describe_lever(lever)
    if plan.unsent:
        yield f"  - cancel {len(plan.unsent):,} batches that are not issued completely"
    if result is not None:
        yield from _describe_result(result)
    elif not is_done:
        yield "Nothing was changed. To do it, add --yes."


def _describe_lever(lever: Lever) -> Iterator[str]:
    yield f"  - {_LEVERS[lever.name]} {lever.where}"
    yield f"      ends {_format_counts(lever.ends)}"
    others = _format_counts(lever.others) if lever.others else "no others"
    yield f"      and with them {others}"
    if lever.name == "deny" and not lever.problem:
        yield f"      until {format_utc(lever.lapses_at)}, new grants of these objects fail as well"
    if lever.problem:
        yield f"      not done by this command: {lever.problem}"
    if lever.manual:
        yield f"      by hand: {lever.manual}"


def _format_counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    texts = [f"{count:,} of {tenant}" for tenant, count in ordered[:_SHOWN_TENANTS]]
    more = len(ordered) - _SHOWN_TENANTS
    return ", ".join(texts) + (f" and of {more:,} other tenants" if more > 0 else "")


def _describe_result(result: RevocationResult) -> Iterator[str]:
    yield f"Revocation {result.revocation_id} is recorded: the grants are not signed again."
    if result.unread:
        yield f"{result.unread:,} results that nobody had read were deleted."
    for problem in result.problems:
        yield f"Error: {problem}. Revoke once more."
    if not result.denied:
        yield "Error: storage still accepts the links: no lever could be pulled by this command."
    elif result.is_proven:
        yield "Proven: storage refuses one of the links now."
    elif result.is_proven is False:
        yield "Error: storage still accepts one of the links: pull another lever."
    else:
        yield "Not proven: no link of a download could be tried."


def _as_json(plan: RevocationPlan, result: RevocationResult | None) -> dict[str, Any]:
    return {
        "target": {"kind": plan.target.kind, "value": plan.target.value},
        "grants": len(plan.targeted),
        "levers": [_lever_as_json(lever) for lever in plan.levers],
        "unsent_batches": len(plan.unsent),
        "result": None
        if result is None
        else {
            "revocation": result.revocation_id,
            "denied": [lever.where for lever in result.denied],
            "problems": list(result.problems),
            "cancelled": result.cancelled,
            "unread_results_deleted": result.unread,
            "proven": result.is_proven,
        },
    }


def _lever_as_json(lever: Lever) -> dict[str, Any]:
    return {
        "lever": lever.name,
        "where": lever.where,
        "ends": dict(lever.ends),
        "others": dict(lever.others),
        "problem": lever.problem,
        "manual": lever.manual,
    }
