"""Revokes grants: records it, denies the links, cancels what was not sent, and proves it."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

from valetkey.wire.messages import CancelMessage
from worker.aborts.multipart_aborts import abort_upload
from worker.base.database_engine import write_transaction
from worker.cancel.cancellation import cancel_batch
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.revoke.kept_statements import denial_row, keep_statements
from worker.revoke.levers import Denial
from worker.revoke.proofs import Proof, Trial, find_trial, provable_grants, prove
from worker.revoke.revocation_plan import RevocationPlan, plan_revocation
from worker.revoke.revocation_rows import delete_denials, insert_revocation
from worker.revoke.session_revocation import end_sessions
from worker.rules.issued_grants import storage_name


@dataclass(slots=True)
class RevocationResult:
    """The outcome of a revocation: its id, and a problem for each step that failed.

    ended are the tenant ids and ids of grants that a lever ended, and ended_roles the time of
    each role before which its sessions were ended. cancelled counts batches, and unread
    results that were deleted from the broker. proofs has the result of each denied bucket, and of
    each role, for which a download can be tried. unproven counts the ended grants of kinds that
    cannot be tried, by kind.
    """

    revocation_id: str
    grants: int = 0
    ended: set[tuple[str, str]] = field(default_factory=set)
    denied: list[Denial] = field(default_factory=list)
    ended_roles: dict[str, datetime] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    cancelled: int = 0
    unread: int = 0
    proofs: dict[str, Proof] = field(default_factory=dict)
    unproven: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def noting(self, what: str, *errors: type[Exception]) -> Iterator[None]:
        """Make these errors in the block a problem, which begins with what failed."""
        try:
            yield
        except errors as error:
            self.problems.append(f"{what}: {error}")

    @property
    def left(self) -> int:
        """The number of grants that no lever ended."""
        return self.grants - len(self.ended)

    @property
    def is_proven(self) -> bool | None:
        """True if all is proven, False if storage still accepts a link, and None otherwise."""
        found = set(self.proofs.values())
        if "accepted" in found:
            return False
        return True if found == {"proven"} and not self.unproven else None

    @property
    def is_complete(self) -> bool:
        """True if nothing failed, and all is proven or was done by an earlier revocation."""
        is_proven = {"proven", "repeated"}.issuperset(self.proofs.values()) and not self.unproven
        return not self.problems and not self.left and is_proven


@dataclass(frozen=True, slots=True)
class Author:
    """The author of a revocation, and the reason."""

    name: str
    reason: str | None


def _count_unproven(plans: Sequence[RevocationPlan], result: RevocationResult) -> Counter[str]:
    """Count the ended grants that nothing proves to be ended, by kind.

    A link to an upload cannot be tried without storing an object, and storage may deny downloads
    alone. The proven end of a role's sessions is that of all links that they signed.
    """
    proven = {
        grant
        for plan in plans
        for lever in plan.session_ends
        if result.proofs.get(lever.where) == "proven"
        for grant in lever.targets
    }
    ended = result.ended - proven
    return Counter(
        grant.kind
        for plan in plans
        for grant in plan.targeted
        if grant.kind != "download" and grant.full_id in ended
    )


ForgetResults = Callable[[Iterable[tuple[str, int]]], int]

# Before the denial, which must not wait: the upkeep aborts the others later.
_MAX_ABORTS = 100
_MAX_ABORT_SECONDS = 20.0  # after which no further abort begins; storage may be silent


def revoke(
    plan: RevocationPlan,
    author: Author,
    context: Context,
    forget_results: ForgetResults,
    on_recorded: Callable[[str], None] = lambda _: None,
) -> RevocationResult:
    """Do a plan. forget_results deletes the results of chunks that no producer has read yet.

    on_recorded is called with the id of the revocation as soon as it is recorded.
    It is recorded first: from then on the grants are not signed again, whatever happens next. What
    fails afterwards is a problem in the result, and is repeated by revoking once more. Raises
    Transient if nothing was done.
    """
    result = RevocationResult(str(uuid4()))
    sids = _record(plan, result.revocation_id, author, context)
    on_recorded(result.revocation_id)
    trials = _find_trials(plan, result, context)
    _abort_uploads(plan, result, context)
    _deny(plan, sids, result, context)
    plans = [plan, *_cancel(plan, author, result, context)]
    _end_sessions(plans, author, result, context)
    chunks = {(grant.batch_id, grant.chunk_number) for each in plans for grant in each.targeted}
    with result.noting("unread results are not deleted", Transient):
        result.unread = forget_results(sorted(chunks))
    _prove(plan, trials, result)
    result.unproven = _count_unproven(plans, result)
    return result


def _record(
    plan: RevocationPlan, revocation_id: str, author: Author, context: Context
) -> Mapping[str, str]:
    """Record a revocation; return the Sid of the statement in each storage."""
    now = context.now()
    grants = dict.fromkeys(plan.tenants, 0) | Counter(grant.tenant for grant in plan.targeted)
    bucket = plan.config.buckets.get(plan.target.bucket or "")
    ends = [grant.expires_at for grant in plan.targeted]
    ends += [denial.lapses_at for denial in plan.denials]
    revocation = {
        "revocation_id": revocation_id,
        "target_kind": plan.target.kind,
        "target": plan.target.value,
        "bucket": plan.target.bucket,
        "storage": None if bucket is None else storage_name(bucket),
        "revoked_by": author.name,
        "reason": author.reason,
        "revoked_at": now,
        "lapses_at": max([now, *ends]),
    }
    new = [denial for denial in plan.denials if denial.where not in plan.earlier]
    rows = [denial_row(denial, revocation_id) for denial in new]
    with write_transaction(context.engine) as connection:
        insert_revocation(connection, revocation, grants, rows)
    return {row.storage: row.sid for row in [*rows, *(each.row for each in plan.earlier.values())]}


def _find_trials(
    plan: RevocationPlan, result: RevocationResult, context: Context
) -> Mapping[str, Trial | None]:
    trials: dict[str, Trial | None] = {}
    for lever in (*plan.denials, *plan.session_ends):
        with result.noting(lever.where, Malformed, Transient):
            if grants := provable_grants(lever, plan):
                trials[lever.where] = find_trial(lever, grants, plan, context)
    return trials


def _abort_uploads(plan: RevocationPlan, result: RevocationResult, context: Context) -> None:
    """Abort unfinished uploads before they are denied: SeaweedFS then refuses aborts as well.

    Does nothing for a revocation of credentials: other credentials may sign for the uploads.
    """
    if plan.target.kind == "credentials":
        return
    multiparts = [grant for grant in plan.targeted if grant.kind == "multipart"]
    end = time.monotonic() + _MAX_ABORT_SECONDS
    with result.noting("not all uploads are aborted", Transient):
        for grant in multiparts[:_MAX_ABORTS]:
            if time.monotonic() > end:
                break
            abort_upload(grant.tenant, grant.id, context)


def _deny(
    plan: RevocationPlan,
    sids: Mapping[str, str],
    result: RevocationResult,
    context: Context,
) -> None:
    """Add the statements to the policies. Forget one that storage refuses: upkeep cannot add it.

    One that storage is too busy for stays recorded, and the upkeep worker adds it.
    """
    for denial in plan.denials:
        sid = sids[denial.where]
        try:
            problem = keep_statements(denial.profile, denial.where, context).get(sid)
        except Transient as error:
            result.problems.append(f"{denial.where}: {error}")
            continue
        except Malformed as error:
            problem = str(error)
        if problem is None:
            result.denied.append(denial)
            result.ended |= denial.targets
            continue
        result.problems.append(f"{denial.where}: {problem}")
        if denial.where not in plan.earlier:
            with (
                result.noting(f"{denial.where}: the upkeep worker tries again", Transient),
                write_transaction(context.engine) as connection,
            ):
                delete_denials(connection, [sid])
    result.grants += len(plan.targeted)


def _cancel(
    plan: RevocationPlan, author: Author, result: RevocationResult, context: Context
) -> Sequence[RevocationPlan]:
    """Cancel the open batches, and revoke what was issued of them meanwhile.

    Returns the plan for the grants that were issued between the plan and the cancellation, if any.
    """
    if not plan.unsent:
        return ()
    with result.noting("not all open batches are cancelled", Transient):
        for tenant, batch_id in plan.unsent:
            message = CancelMessage(
                ask="cancel",
                tenant=tenant.partition("~")[0],
                batch=batch_id,
                requested_by=author.name,
                reason=author.reason or "revoked",
                abort_uploads=True,
            )
            cancel_batch(message, tenant, None, context)
            result.cancelled += 1
        late = plan_revocation(
            plan.target, context, plan.targeted, ends_sessions=plan.ends_sessions
        )
        if late.targeted:
            _abort_uploads(late, result, context)
            _deny(late, _record(late, str(uuid4()), author, context), result, context)
            return (late,)
    return ()


def _end_sessions(
    plans: Iterable[RevocationPlan], author: Author, result: RevocationResult, context: Context
) -> None:
    """End the sessions of each role once. Those that signed the late grants are not newer."""
    levers = [lever for plan in plans for lever in plan.session_ends]
    profiles = {lever.where: lever.profile for lever in levers if lever.profile}
    for role_arn, profile in profiles.items():
        with result.noting(role_arn, Malformed, Transient):
            row = end_sessions(profile, role_arn, author.name, context)
            result.ended_roles[role_arn] = row.sessions_from
    for lever in levers:
        if lever.where in result.ended_roles:
            result.ended |= lever.targets


def _prove(
    plan: RevocationPlan, trials: Mapping[str, Trial | None], result: RevocationResult
) -> None:
    done = {*(denial.where for denial in result.denied), *result.ended_roles}
    for lever in (*plan.denials, *plan.session_ends):
        if lever.where in done.intersection(trials):
            with result.noting(lever.where, Transient):
                result.proofs[lever.where] = prove(trials[lever.where], lever, plan)
