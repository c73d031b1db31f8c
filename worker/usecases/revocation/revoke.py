"""Revokes grants: records it, cancels what was not sent, denies the links, and proves it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from valetkey.wire.messages import CancelMessage
from worker.aws.bucket_policies import deny
from worker.context import Context
from worker.core.revocation.bucket_policy import (
    denial_sid,
    denial_statement,
    key_arn,
    prefix_arn,
)
from worker.core.revocation.levers import Lever
from worker.core.revocation.targets import LiveGrant
from worker.core.tenants.config import Bucket
from worker.db.engine import write_transaction
from worker.db.revocation.rows import DenialRow, NewRevocation, insert_revocation
from worker.errors import Malformed, Transient
from worker.usecases.cancel import cancel_batch
from worker.usecases.revocation.plan import RevocationPlan
from worker.usecases.revocation.proof import ProofLink, is_refused, take_proof_link

SESSION = "revocation"  # the name of a role's session in storage's logs
ForgetResults = Callable[[Iterable[tuple[str, int]]], int]


@dataclass(frozen=True, slots=True)
class RevocationResult:
    """What a revocation did: its id, and a problem for each lever that failed.

    cancelled counts batches, and unread results that were deleted from the broker. is_proven is
    None if no link could be tried.
    """

    revocation_id: str
    denied: Sequence[Lever]
    problems: Sequence[str]
    cancelled: int
    unread: int
    is_proven: bool | None


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
    fails afterwards is repeated by revoking once more. Raises Transient if nothing was done.
    """
    revocation_id = str(uuid4())
    link = take_proof_link(plan.targeted, context) if plan.denials else None
    _record(plan, author, revocation_id, context)
    for tenant, batch_id in plan.unsent:
        cancel_batch(_cancellation(tenant, batch_id, author), tenant, None, context)
    problems = [
        f"{lever.where}: {problem}"
        for lever in plan.denials
        if (problem := _deny(lever, revocation_id, context)) is not None
    ]
    chunks = {(grant.batch_id, grant.chunk_number) for grant in plan.targeted}
    unread = forget_results(sorted(chunks))
    is_proven = _prove(link, problems)
    return RevocationResult(
        revocation_id, plan.denials, problems, len(plan.unsent), unread, is_proven
    )


def _record(plan: RevocationPlan, author: Author, revocation_id: str, context: Context) -> None:
    grants: dict[str, int] = {}
    for grant in plan.targeted:
        grants[grant.tenant] = grants.get(grant.tenant, 0) + 1
    lapses_at = _lapse(plan.targeted, plan.denials)
    row = NewRevocation(revocation_id, plan.target, grants, author.name, author.reason, lapses_at)
    denials = [
        DenialRow(_sid(lever, revocation_id), lever.profile.name)
        for lever in plan.denials
        if lever.profile is not None
    ]
    with write_transaction(context.engine) as connection:
        insert_revocation(connection, row, denials, context.now())


def _lapse(grants: Iterable[LiveGrant], levers: Iterable[Lever]) -> datetime:
    ends = [*(grant.expires_at for grant in grants), *(lever.lapses_at for lever in levers)]
    return max(ends)


def _sid(lever: Lever, revocation_id: str) -> str:
    # One statement a bucket: the name of its profile keeps them apart.
    profile = "" if lever.profile is None else lever.profile.name
    return denial_sid(revocation_id + "".join(c for c in profile if c.isalnum()))[:64]


def _cancellation(tenant: str, batch_id: str, author: Author) -> CancelMessage:
    return CancelMessage(
        ask="cancel",
        tenant=tenant.partition("~")[0],
        batch=batch_id,
        requested_by=author.name,
        reason=author.reason or "revoked",
        abort_uploads=True,
    )


def _deny(lever: Lever, revocation_id: str, context: Context) -> str | None:
    """Deny what a lever names, and return why that failed, or None."""
    bucket = lever.profile
    if bucket is None:
        return None
    try:
        client: Any = context.s3.client(bucket, SESSION, ("*",), context.now())
        deny(client, bucket.bucket, _statement(lever, bucket, revocation_id))
    except (Malformed, Transient) as error:
        return str(error)
    return None


def _statement(lever: Lever, bucket: Bucket, revocation_id: str) -> dict[str, Any]:
    partition = "aws-cn" if bucket.region.startswith("cn-") else "aws"
    partition = "aws-us-gov" if bucket.region.startswith("us-gov-") else partition
    arns = [
        *(key_arn(partition, bucket.bucket, key) for key in lever.keys),
        *(prefix_arn(partition, bucket.bucket, prefix) for prefix in lever.prefixes),
    ]
    is_aws = bucket.provider == "aws"  # others ignore the condition, and then the statement
    sid = _sid(lever, revocation_id)
    return denial_statement(sid, arns, lever.actions, lever.lapses_at, has_conditions=is_aws)


def _prove(link: ProofLink | None, problems: list[str]) -> bool | None:
    if link is None:
        return None
    try:
        return is_refused(link)
    except Transient as error:
        problems.append(str(error))
        return None
