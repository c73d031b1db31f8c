"""Ends the sessions of a role, and keeps the policy on the role while it is needed."""

import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from valetkey.units import format_utc
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.jobs import JobRun
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.ledger.tenant_rows import increment_revision, load_config
from worker.revoke.role_policies import LONGEST_SESSION, POLICY_NAME, role_policies
from worker.revoke.session_rows import (
    EndedSessionsRow,
    delete_ended_sessions,
    read_ended_sessions,
    store_ended_sessions,
)
from worker.rules.tenant_config import Bucket, TenantConfig
from worker.tenants.config_changes import ChangeAuthor, record_changes

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

    Raises Transient and Malformed. Once the time is stored, the upkeep puts the policy on the
    role if this process cannot.

    The time is taken from AWS's own clock, because AWS compares it with its own times of issue.
    These are cut to whole seconds, so it is the next whole second, and later by as much as the
    clocks of IAM and STS may differ: every session that has signed so far is older.

    It is stored before the policy is put: from then on, each worker drops older sessions before its
    next grant. A new session may be too old as well, until STS's clock has reached the time. The
    worker does not sign with it and asks again, so that the role signs nothing for some seconds.
    The policy follows when that time is over. Then every worker can have a session that the policy
    does not deny, and messages that were being signed while the time was stored are done: no link
    is signed by a session that is already denied.
    """
    state = context.use(role_policies).read(bucket, role_arn)
    sessions_from = state.now + _SECOND + _AWS_SKEW
    if state.sessions_from is not None:  # of another installation that has the same role
        if state.sessions_from > sessions_from + _NEAR:
            raise Malformed(f"the role's policy {POLICY_NAME} has a time in the future: remove it")
        sessions_from = max(sessions_from, state.sessions_from)
    lapses_at = sessions_from + LONGEST_SESSION
    row = EndedSessionsRow(role_arn, sessions_from, bucket.name, lapses_at)
    stored = _store(row, author, context)
    wait((stored.sessions_from + _AWS_SKEW - state.now).total_seconds())
    context.use(role_policies).end_sessions(bucket, role_arn, stored.sessions_from)
    return stored


def _store(row: EndedSessionsRow, author: str, context: Context) -> EndedSessionsRow:
    now = context.now()
    with write_transaction(context.engine) as connection:
        increment_revision(connection)
        config = load_config(connection)
        stored = store_ended_sessions(connection, row)
        moment = format_utc(stored.sessions_from)
        changes = [
            (
                f"buckets.{name}.sessions_from",
                None if bucket.sessions_from is None else format_utc(bucket.sessions_from),
                moment,
            )
            for name, bucket in config.buckets.items()
            if bucket.role_arn == row.role_arn
        ]
        record_changes(connection, changes, ChangeAuthor(now, author, "revoke"))
    return stored


_GRACE = timedelta(minutes=1)  # in which the command puts the policy, once it has waited

log = structlog.get_logger()


def keep_sessions_ended(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Remove the policies that deny no session any more; return their number as `role_policies`.

    A policy that still does is put again if it is missing or has an earlier time. Failures are
    logged, and tried again later. Raises Transient if the database is out of reach.
    """
    run = run or JobRun()
    with read_transaction(context.engine) as connection:
        rows = read_ended_sessions(connection)
    config, now = context.config.current(), context.now()
    forgotten = 0
    for row in rows:
        if run.is_stopping:
            break
        if now >= row.lapses_at:
            forgotten += _remove_policy(row, config, context)
        elif now >= row.sessions_from + _GRACE:
            _keep_policy(row, config, context)
        run.progress()
    return {"role_policies": forgotten}


def _keep_policy(row: EndedSessionsRow, config: TenantConfig, context: Context) -> None:
    problem: str | None = "no bucket profile has this role any more: add one again"
    bucket = _find_profile(row, config)
    if bucket is not None:
        try:
            context.use(role_policies).end_sessions(bucket, row.role_arn, row.sessions_from)
            problem = None
        except (Malformed, Transient) as error:
            problem = str(error)
    _note_problem(row, problem, context)


def _remove_policy(row: EndedSessionsRow, config: TenantConfig, context: Context) -> bool:
    """Remove the policy of a role, and then its row; return true if the row is gone.

    A worker that still has a session from before the time finds that it has expired. For the same
    reason, a policy that cannot be removed denies nothing, and is forgotten.
    """
    bucket = _find_profile(row, config)
    problem = "no bucket profile has this role any more" if bucket is None else None
    try:
        if bucket is not None:
            context.use(role_policies).remove(bucket, row.role_arn, row.sessions_from)
    except Transient as error:
        _note_problem(row, str(error), context)
        return False
    except Malformed as error:
        problem = str(error)
    _note_problem(row, None, context)
    if problem is not None:
        log.warning("role_policy_left", role=row.role_arn, policy=POLICY_NAME, problem=problem)
    with write_transaction(context.engine) as connection:
        delete_ended_sessions(connection, row)
    return True


def _note_problem(row: EndedSessionsRow, problem: str | None, context: Context) -> None:
    context.problems.note("ended_sessions_left", row.role_arn, problem, role=row.role_arn)


def _find_profile(row: EndedSessionsRow, config: TenantConfig) -> Bucket | None:
    """Return a profile with the role: the one that ended its sessions, if it still has it."""
    return config.find_bucket(lambda each: each.role_arn == row.role_arn, [row.bucket])
