"""Describes plans and results of revocations."""

from collections.abc import Iterable, Iterator, Mapping
from textwrap import TextWrapper
from typing import Any

from valetkey.units import format_utc
from worker.core.revocation.levers import Denial, Lever
from worker.usecases.revocation.plan import RevocationPlan
from worker.usecases.revocation.proof import Proof
from worker.usecases.revocation.results import RevocationResult

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
    if lever.denial:
        yield f"      at {plan.hosts.get(lever.denial.profile.name) or 'an unknown host'}"
    yield f"      ends {_format_counts(lever.ends, 'grant')}"
    others = _format_counts(lever.others, "other grant") if lever.others else "no other grants"
    yield f"      and {others}"
    if lever.denial and not lever.problem:
        yield f"      until {format_utc(lever.lapses_at)}, new grants of these objects fail as well"
        yield from _describe_denial(lever, lever.denial, plan)
    if lever.profile and not plan.ends_sessions:
        yield "      only with --end-sessions"
    if lever.problem:
        yield f"      not done by this command: {lever.problem}"
    if lever.manual:
        yield "      by hand:"
        yield f"{_VERBATIM}{lever.manual}"


def _describe_denial(lever: Lever, denial: Denial, plan: RevocationPlan) -> Iterator[str]:
    has_forms = any(
        grant.kind == "upload" and grant.full_id in lever.targets for grant in plan.targeted
    )
    if has_forms and denial.profile.name not in plan.on_aws:
        yield "      storage other than AWS may still accept forms: SeaweedFS does"
    if earlier := plan.earlier.get(lever.where):
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


def describe_record(plan: RevocationPlan, revocation_id: str) -> str:
    """Return the line that a revocation is recorded."""
    again = "the grants are neither signed nor reissued again."
    if plan.target.kind == "credentials":
        again = "other credentials may sign the grants again."
    return f"Revocation {revocation_id} is recorded: {again}"


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
    for where, proof in result.proofs.items():
        yield f"{_PROOFS[proof]} ({where})"
        if proof == "accepted":
            yield _CAUSES
    for role_arn, moment in result.ended_roles.items():
        yield f"Sessions from before {format_utc(moment)} are ended. ({role_arn})"
    for role_arn, proof in result.session_proofs.items():
        yield f"{_SESSION_PROOFS[proof]} ({role_arn})"
    if result.unproven:
        kinds = ", ".join(f"{count:,} of kind {kind}" for kind, count in result.unproven.items())
        yield f"Error: not proven for {kinds}: storage may still accept them. Try one of them."


def as_json(plan: RevocationPlan, result: RevocationResult | None) -> dict[str, Any]:
    """Return a plan and its result as JSON values."""
    return {
        "target": {"kind": plan.target.kind, "value": plan.target.value},
        "grants": len(plan.targeted),
        "levers": [_lever_as_json(lever, plan) for lever in plan.levers],
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


def _lever_as_json(lever: Lever, plan: RevocationPlan) -> dict[str, Any]:
    return {
        "lever": lever.name,
        "where": lever.where,
        "host": plan.hosts.get(lever.denial.profile.name) if lever.denial else None,
        "ends": dict(lever.ends),
        "others": dict(lever.others),
        "problem": lever.problem,
        "manual": lever.manual,
    }
