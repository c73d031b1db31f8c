"""Describes plans and results of revocations."""

from collections.abc import Iterator, Mapping
from typing import Any

from valetkey.units import format_utc
from worker.core.revocation.levers import Lever
from worker.usecases.revocation.plan import RevocationPlan
from worker.usecases.revocation.revoke import RevocationResult

_LEVERS = {
    "deny": "deny it in the policy of bucket",
    "end_sessions": "end the sessions",
    "disable_access_key": "disable access key",
}
_SHOWN_TENANTS = 5


def describe(
    plan: RevocationPlan, result: RevocationResult | None, *, is_done: bool
) -> Iterator[str]:
    """Yield the lines about a plan, and about its result if it was done."""
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


def as_json(plan: RevocationPlan, result: RevocationResult | None) -> dict[str, Any]:
    """Return a plan and its result as JSON values."""
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
