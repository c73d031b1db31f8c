"""Adds statements to bucket policies, and keeps them until grants expire."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog

from worker.aws.storage_calls import call_storage
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.jobs import JobRun
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.revoke.levers import Denial, Lever
from worker.revoke.policy_document import (
    PolicyChange,
    change_policy,
    denial_statement,
    includes,
    object_arn,
)
from worker.revoke.revocation_rows import (
    DenialRow,
    LiveDenial,
    delete_denials,
    read_denials,
    store_policy_bytes,
)
from worker.rules.issued_grants import storage_name
from worker.rules.storage_errors import ErrorResponse
from worker.rules.tenant_config import Bucket
from worker.shared.limited_sessions import policy_session

_NO_POLICY = "NoSuchBucketPolicy"
_GONE = "NoSuchBucket"
_ATTEMPTS = 3


def change_statements(
    client: Any,
    bucket: str,
    statements: Sequence[dict[str, Any]],
    removed: Collection[str] = (),
) -> tuple[int, Mapping[str, str]]:
    """Have a bucket's policy contain statements, and none of the removed Sids.

    Returns the size of the policy, and why statements are not in it, by Sid.
    A statement that does not fit, or that storage refuses, keeps out no other and delays no
    removal: if storage refuses the change as a whole, each is made alone. Raises Transient, and
    Malformed if the policy cannot be changed at all.
    """
    with suppress(Malformed):
        change = _change_policy(client, bucket, statements, removed)
        return change.size, change.unfit
    kept: list[dict[str, Any]] = []
    problems: dict[str, str] = {}
    change = _change_policy(client, bucket, (), removed)
    for each in statements:
        try:
            change = _change_policy(client, bucket, [*kept, each], ())
        except Malformed as error:
            problems[each["Sid"]] = str(error)
        else:
            problems |= change.unfit
            kept += [] if each["Sid"] in change.unfit else [each]
    return change.size, problems


def _change_policy(
    client: Any, bucket: str, statements: Sequence[dict[str, Any]], removed: Collection[str]
) -> PolicyChange:
    """Make a change, and read the policy again until it has it.

    S3 replaces a policy as a whole, and does not show whether another process has changed it
    meanwhile: a change that was lost is made again. Raises Malformed only if nothing was changed.
    """
    for attempt in range(_ATTEMPTS + 1):
        try:
            change = change_policy(read_policy(client, bucket), statements, removed)
            if change.is_done:
                return change
            if attempt < _ATTEMPTS:
                _write_policy(client, bucket, change.policy)
        except Malformed as error:
            if attempt:
                raise Transient(str(error)) from None
            raise
    raise Transient("another process changes the bucket's policy at the same time")


def read_policy(client: Any, bucket: str) -> str | None:
    """Return the policy of a bucket, or None. Raises Transient and Malformed."""
    response = call_storage(client.get_bucket_policy, Bucket=bucket)
    if not isinstance(response, ErrorResponse):
        return str(response["Policy"])
    if response.code in {_NO_POLICY, _GONE}:
        return None
    raise Malformed(f"storage does not show the bucket's policy: {response.words}")


def _write_policy(client: Any, bucket: str, policy: str | None) -> None:
    if policy is None:
        response = call_storage(client.delete_bucket_policy, Bucket=bucket)
    else:
        response = call_storage(client.put_bucket_policy, Bucket=bucket, Policy=policy)
    if isinstance(response, ErrorResponse):
        raise Malformed(f"storage refuses the change of the bucket's policy: {response.words}")


SESSION_NAME = "revocation"
"""The name of a role's session in storage's logs."""


def denial_row(denial: Denial, revocation_id: str) -> DenialRow:
    """Return the row of a new statement."""
    statement = denial_statement(denial, revocation_id)
    return DenialRow(
        sid=statement["Sid"],
        bucket=denial.profile.name,
        storage=denial.where,
        statement=json.dumps(statement),
        lapses_at=denial.lapses_at,
    )


def find_earlier(levers: Iterable[Lever], live: Sequence[LiveDenial]) -> dict[str, LiveDenial]:
    """Return the oldest statement that already denies all that a lever would, by its place.

    It denies at least as long. The live statements are in the order of their age.
    """
    earlier: dict[str, LiveDenial] = {}
    for denial in levers:
        if not isinstance(denial, Denial):
            continue
        wanted = denial_statement(denial, "")
        for each in live:
            is_here = each.row.storage == denial.where and each.row.lapses_at >= denial.lapses_at
            if is_here and _includes(json.loads(each.row.statement), wanted):
                earlier.setdefault(denial.where, each)
    return earlier


def _includes(statement: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    has_same_conditions = ("Condition" in statement) == ("Condition" in wanted)
    return has_same_conditions and all(
        set(wanted[name]) <= set(statement[name]) for name in ("Action", "Resource")
    )


def is_denied(object_key: str, denial: Denial, live: Iterable[LiveDenial]) -> bool:
    """Return whether one of these statements denies an object in the bucket of a denial.

    It may end before the denial would, and so be no substitute for it.
    """
    arn = object_arn(denial, object_key)
    here = [each.row.statement for each in live if each.row.storage == denial.where]
    return any(includes(json.loads(statement)["Resource"], arn) for statement in here)


def keep_statements(bucket: Bucket, storage: str, context: Context) -> Mapping[str, str]:
    """Have the policy of a bucket contain our live statements there, and none that have lapsed.

    Returns why live statements are not in it, by Sid. Deletes the rows of those that have lapsed.
    The rows are read again afterwards: a revocation that was recorded meanwhile may have lost its
    statement by this change of the policy. Raises Transient, and Malformed if the policy cannot be
    changed at all.
    """
    client = context.s3.client(bucket, SESSION_NAME, (), context.now(), policy_session)
    before, known, size = None, set[str](), None
    while (rows := _read_rows(storage, context)) != before:
        live, lapsed = before = rows
        known |= {each.sid for each in [*live, *lapsed]}
        ended = known.difference(each.sid for each in live)  # also rows that are gone by now
        statements = [json.loads(denial.statement) for denial in live]
        try:
            size, problems = change_statements(client, bucket.bucket, statements, ended)
        except Malformed as error:
            if size is None:
                raise
            raise Transient(str(error)) from None  # the policy has statements of ours
    gone = {each.sid for each in live if each.sid in problems and each.policy_bytes is not None}
    seen = {each.sid for each in live if each.sid not in problems and each.policy_bytes != size}
    if seen or gone or ended:
        with write_transaction(context.engine) as connection:
            store_policy_bytes(connection, seen, size)
            store_policy_bytes(connection, gone, None)
            delete_denials(connection, ended)
    return problems


def _read_rows(storage: str, context: Context) -> tuple[list[DenialRow], list[DenialRow]]:
    with read_transaction(context.engine) as connection:
        return read_denials(connection, context.now(), storage)


log = structlog.get_logger()


def keep_denials(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Remove the statements that deny nothing any more, and return their number as `denials`.

    A statement that still denies a grant is added again if another process has overwritten the
    policy, or changed the statement. A row is deleted only after its statement was seen gone; what
    fails is logged and tried again. Raises Transient if the database is out of reach.
    """
    run = run or JobRun()
    with read_transaction(context.engine) as connection:
        live, lapsed = read_denials(connection, context.now())
    removed = 0
    denials = [*live, *lapsed]
    for storage in sorted({denial.storage for denial in denials}):
        if run.is_stopping:
            break
        here = [denial for denial in denials if denial.storage == storage]
        if _keep_in_storage(storage, [denial.bucket for denial in here], context):
            removed += len([denial for denial in here if denial in lapsed])
        run.progress()
    return {"denials": removed}


def _keep_in_storage(storage: str, profiles: Iterable[str], context: Context) -> bool:
    """Keep the statements of one bucket, log why some are not, and return whether any could be."""
    # A profile that added a statement, if it still leads to the bucket.
    config = context.config.current()
    bucket = config.find_bucket(lambda each: storage_name(each) == storage, profiles)
    problems: Mapping[str, str] = {}
    problem: str | None = "no bucket profile leads to this bucket any more: add one again"
    is_kept = False
    if bucket is not None:
        try:
            problems = keep_statements(bucket, storage, context)
            problem, is_kept = next(iter(problems.values()), None), True
        except (Malformed, Transient) as error:
            problem = str(error)
        except Exception as error:
            # A policy that nothing was written for must not stop the statements of other buckets.
            log.exception("denials_failed", storage=storage)
            problem = type(error).__name__
    context.problems.note(
        "denials_left", storage, problem, storage=storage, statements=list(problems)
    )
    return is_kept
