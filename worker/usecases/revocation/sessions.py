"""Ends the sessions of a role: stores the moment, waits until it is over, and tells IAM."""

import time
from collections.abc import Callable
from datetime import timedelta

from valetkey.units import format_utc
from worker.context import Context
from worker.core.revocation.role_policy import LONGEST_SESSION, POLICY_NAME
from worker.core.tenants.config import Bucket, TenantConfig
from worker.db.audit.changes import ChangeAuthor, record_changes
from worker.db.engine import write_transaction
from worker.db.revocation.ended_sessions import EndedSessionsRow, store_ended_sessions
from worker.db.tenants import increment_revision, load_config
from worker.errors import Malformed

_AWS_SKEW = timedelta(seconds=2)  # at most, between the clocks of IAM and STS
_SECOND = timedelta(seconds=1)
_NEAR = timedelta(minutes=1)


def end_sessions(
    bucket: Bucket,
    role_arn: str,
    author: str,
    context: Context,
    wait: Callable[[float], None] = time.sleep,
) -> EndedSessionsRow:
    """End all sessions of a bucket profile's role that were issued until now.

    Raises Transient and Malformed. Once the moment is stored, the upkeep puts the policy on the
    role if this process cannot.

    The moment is taken from AWS's own clock, because AWS compares it with its own times of issue.
    These are cut to whole seconds, so it is the next whole second, and later by as much as the
    clocks of IAM and STS may differ: every session that has signed so far is older.

    It is stored before the policy is put: from then on, each worker drops older sessions before its
    next grant. A new session may be too old as well, until STS's clock has reached the moment. The
    worker does not sign with it and asks again, so that the role signs nothing for some seconds.
    The policy follows when that time is over. Then every worker can have a session that the policy
    does not deny, and messages that were being signed while the moment was stored are done: no link
    is signed by a session that is already denied.
    """
    state = context.roles.read(bucket, role_arn)
    moment = state.now + _SECOND + _AWS_SKEW
    if state.sessions_from is not None:  # of another installation that has the same role
        if state.sessions_from > moment + _NEAR:
            raise Malformed(
                f"the role's policy {POLICY_NAME} has a moment in the future: remove it"
            )
        moment = max(moment, state.sessions_from)
    row = EndedSessionsRow(role_arn, moment, bucket.name, moment + LONGEST_SESSION)
    stored = _store(row, author, context)
    wait((stored.sessions_from + _AWS_SKEW - state.now).total_seconds())
    context.roles.end_sessions(bucket, role_arn, stored.sessions_from)
    return stored


def _store(row: EndedSessionsRow, author: str, context: Context) -> EndedSessionsRow:
    now = context.now()
    with write_transaction(context.engine) as connection:
        increment_revision(connection)
        config = load_config(connection)
        stored = store_ended_sessions(connection, row)
        changes = [
            (f"buckets.{name}.sessions_from", before, format_utc(stored.sessions_from))
            for name, before in _moments(config, row.role_arn).items()
        ]
        record_changes(connection, changes, ChangeAuthor(now, author, "revoke"))
    return stored


def _moments(config: TenantConfig, role_arn: str) -> dict[str, str | None]:
    """Return the moments of the bucket profiles of a role, as they are in the log."""
    return {
        name: None if bucket.sessions_from is None else format_utc(bucket.sessions_from)
        for name, bucket in config.buckets.items()
        if bucket.role_arn == role_arn
    }
