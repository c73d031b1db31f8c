"""Revokes grants: records it, denies the links, cancels what was not sent, and proves it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from valetkey.wire.messages import CancelMessage
from worker.context import Context
from worker.core.revocation.levers import Lever
from worker.core.revocation.targets import LiveGrant
from worker.core.tenants.storage_names import storage_name
from worker.db.engine import write_transaction
from worker.db.revocation.rows import NewRevocation, insert_revocation
from worker.errors import Malformed, Transient
from worker.usecases.cancel import cancel_batch
from worker.usecases.revocation.plan import RevocationPlan, plan_revocation
from worker.usecases.revocation.proof import Proof, ProofLink, find_proof_link, prove
from worker.usecases.revocation.statements import NewStatement, change_bucket, new_statements

ForgetResults = Callable[[Iterable[tuple[str, int]]], int]


@dataclass(slots=True)
class RevocationResult:
    """What a revocation did: its id, and a problem for each step that failed.

    left is the number of grants that no statement denies. cancelled counts batches, and unread
    results that were deleted from the broker. proofs has the result of each denied bucket in which
    a download can be tried; uploads cannot.
    """

    revocation_id: str
    grants: int = 0
    left: int = 0
    denied: list[Lever] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    cancelled: int = 0
    unread: int = 0
    proofs: dict[str, Proof] = field(default_factory=dict)

    @property
    def is_proven(self) -> bool | None:
        """True if all buckets are proven, False if one still accepts a link, and None otherwise."""
        if "accepted" in self.proofs.values():
            return False
        return True if self.proofs and set(self.proofs.values()) == {"proven"} else None

    @property
    def is_complete(self) -> bool:
        """True if nothing failed, and everything that can be proven is."""
        is_proven = set(self.proofs.values()) <= {"proven"}
        return not self.problems and not self.left and is_proven


@dataclass(frozen=True, slots=True)
class Author:
    """Who revokes, and why."""

    name: str
    reason: str | None


def revoke(
    plan: RevocationPlan, author: Author, context: Context, forget_results: ForgetResults
) -> RevocationResult:
    """Do a plan. forget_results deletes the results of chunks that no producer has read yet.

    It is recorded first: from then on the grants are not signed again, whatever happens next. What
    fails afterwards is a problem in the result, and is repeated by revoking once more. Raises
    Transient if nothing was done.
    """
    result = RevocationResult(str(uuid4()))
    statements = _record(plan, result.revocation_id, author, context)
    links = _find_proof_links(plan, result, context)
    _deny(plan, statements, result, context)
    targeted = [*plan.targeted, *_cancel(plan, author, result, context)]
    chunks = {(grant.batch_id, grant.chunk_number) for grant in targeted}
    try:
        result.unread = forget_results(sorted(chunks))
    except Transient as error:
        result.problems.append(f"unread results are not deleted: {error}")
    _prove(links, result)
    return result


def _record(
    plan: RevocationPlan, revocation_id: str, author: Author, context: Context
) -> Sequence[NewStatement]:
    now = context.now()
    grants = dict.fromkeys(plan.tenants, 0)
    for grant in plan.targeted:
        grants[grant.tenant] += 1
    ends = [now, *(grant.expires_at for grant in plan.targeted)]
    lapses_at = max([*ends, *(lever.lapses_at for lever in plan.denials)])
    bucket = plan.config.buckets.get(plan.target.bucket or "")
    storage = None if bucket is None else storage_name(bucket)
    row = NewRevocation(
        *(revocation_id, plan.target, grants, author.name, author.reason, lapses_at, storage)
    )
    statements = new_statements(plan.denials, revocation_id)
    with write_transaction(context.engine) as connection:
        insert_revocation(connection, row, [each.to_row() for each in statements], now)
    return statements


def _find_proof_links(
    plan: RevocationPlan, result: RevocationResult, context: Context
) -> Mapping[str, ProofLink | None]:
    links: dict[str, ProofLink | None] = {}
    for lever in plan.denials:
        denial = lever.denial
        downloads = [
            grant
            for grant in plan.targeted
            if grant.kind == "download"
            and storage_name(plan.config.buckets[grant.bucket]) == lever.where
        ]
        if denial is None or not downloads:
            continue
        try:
            links[lever.where] = find_proof_link(denial.profile, downloads, context)
        except (Malformed, Transient) as error:
            result.problems.append(f"{lever.where}: {error}")
    return links


def _deny(
    plan: RevocationPlan,
    statements: Iterable[NewStatement],
    result: RevocationResult,
    context: Context,
) -> None:
    ended = 0
    for statement in statements:
        try:
            change_bucket(statement.denial.profile, [statement.statement], (), context)
        except (Malformed, Transient) as error:
            result.problems.append(f"{statement.lever.where}: {error}")
        else:
            result.denied.append(statement.lever)
            ended += sum(statement.lever.ends.values())
    result.grants += len(plan.targeted)
    result.left += len(plan.targeted) - ended


def _cancel(
    plan: RevocationPlan, author: Author, result: RevocationResult, context: Context
) -> Sequence[LiveGrant]:
    """Cancel the open batches, and revoke what was issued of them meanwhile.

    Returns the grants that were issued between the plan and the cancellation.
    """
    try:
        for tenant, batch_id in plan.unsent:
            cancel_batch(_cancellation(tenant, batch_id, author), tenant, None, context)
            result.cancelled += 1
        late = plan_revocation(plan.target, context, plan.targeted) if plan.unsent else None
        if late is None or not late.targeted:
            return ()
        _deny(late, _record(late, str(uuid4()), author, context), result, context)
    except Transient as error:
        result.problems.append(f"not all open batches are cancelled: {error}")
        return ()
    return late.targeted


def _cancellation(tenant: str, batch_id: str, author: Author) -> CancelMessage:
    return CancelMessage(
        ask="cancel",
        tenant=tenant.partition("~")[0],
        batch=batch_id,
        requested_by=author.name,
        reason=author.reason or "revoked",
        abort_uploads=True,
    )


def _prove(links: Mapping[str, ProofLink | None], result: RevocationResult) -> None:
    denied = {lever.where for lever in result.denied}
    for where, link in links.items():
        try:
            if where in denied:
                result.proofs[where] = "untried" if link is None else prove(link)
        except Transient as error:
            result.problems.append(f"{where}: {error}")
