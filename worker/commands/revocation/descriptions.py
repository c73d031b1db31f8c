"""Describes plans and results of revocations."""

from collections.abc import Iterator, Mapping
from typing import Any

from valetkey.units import format_utc
from worker.core.revocation.levers import Lever
from worker.usecases.revocation.plan import RevocationPlan
from worker.usecases.revocation.proof import Proof
from worker.usecases.revocation.revoke import RevocationResult

_LEVERS = {
    "deny": "deny it in the policy of bucket",
    "end_sessions": "end the sessions",
    "disable_access_key": "disable access key",
}
_PROOFS: Mapping[Proof, str] = {
    "proven": "Proven: storage served a link to one of the objects before, and refuses it now.",
    "accepted": "Error: storage still accepts a link to one of the objects: pull another lever.",
    "untried": "Error: not proven: storage served no link that could be tried before the denial.",
}
_SHOWN_TENANTS = 5


def describe(
    plan: RevocationPlan, result: RevocationResult | None, *, is_done: bool
) -> Iterator[str]:
    """Yield the lines about a plan, and about its result if it was done."""
    if plan.is_empty:
        yield "No live grant matches: there is nothing to revoke."
        return
    if plan.targeted:
        last = max(grant.expires_at for grant in plan.targeted)
        yield f"{len(plan.targeted):,} live grants, the last until {format_utc(last)}"
    if plan.target.kind in {"grant", "batch"} and len(plan.tenants) > 1:
        yield f"Several tenants chose this batch id: {', '.join(plan.tenants)}"
        yield f"  To revoke one tenant's alone: {plan.tenants[0]}/{plan.target.value}"
    for lever in plan.levers:
        yield from _describe_lever(lever)
    if plan.unsent:
        yield f"  - cancel {len(plan.unsent):,} batches that are not issued completely"
    if result is not None:
        yield from _describe_result(plan, result)
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


def _describe_result(plan: RevocationPlan, result: RevocationResult) -> Iterator[str]:
    again = "the grants are not signed again."
    if plan.target.kind == "credentials":
        again = "other credentials may sign the grants again."
    yield f"Revocation {result.revocation_id} is recorded: {again}"
    if result.cancelled:
        yield f"{result.cancelled:,} batches were cancelled."
    if result.unread:
        yield f"{result.unread:,} results that nobody had read were deleted."
    for problem in result.problems:
        yield f"Error: {problem}. Revoke once more."
    if result.left:
        yield (
            f"Error: storage still accepts {result.left:,} of {result.grants:,} grants: no lever"
            " of this command ended them."
        )
    for where, proof in result.proofs.items():
        yield f"{_PROOFS[proof]} ({where})"
    if result.denied and not result.proofs:
        yield "Not proven: there was no link of a download to try."


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
            "left": result.left,
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
