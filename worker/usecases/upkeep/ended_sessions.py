"""Keeps our policies on roles until all sessions that they deny would have ended."""

from datetime import timedelta

import structlog

from worker.context import Context
from worker.core.revocation.role_policy import POLICY_NAME
from worker.core.tenants.config import Bucket, TenantConfig
from worker.db.engine import read_transaction, write_transaction
from worker.db.revocation.ended_sessions import (
    EndedSessionsRow,
    delete_ended_sessions,
    read_ended_sessions,
)
from worker.errors import Malformed, Transient
from worker.jobs.single_flight import JobRun

_GRACE = timedelta(minutes=1)  # in which the command puts the policy, once it has waited

log = structlog.get_logger()


def keep_sessions_ended(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Remove the policies that deny no session any more; return their number as `role_policies`.

    A policy that still does is put again if it is missing, or has an earlier moment. What fails is
    logged and tried again. Raises Transient if the database is out of reach.
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
            forgotten += _remove(row, config, context)
        elif now >= row.sessions_from + _GRACE:
            _keep(row, config, context)
        run.progress()
    return {"role_policies": forgotten}


def _keep(row: EndedSessionsRow, config: TenantConfig, context: Context) -> None:
    problem: str | None = "no bucket profile has this role any more: add one again"
    bucket = _find_profile(row, config)
    if bucket is not None:
        try:
            context.roles.end_sessions(bucket, row.role_arn, row.sessions_from)
            problem = None
        except (Malformed, Transient) as error:
            problem = str(error)
    _note(row, problem, context)


def _remove(row: EndedSessionsRow, config: TenantConfig, context: Context) -> bool:
    """Remove the policy of a role, and then its row; return true if the row is gone.

    A worker that still has a session from before the moment finds that it has expired. For the same
    reason, a policy that cannot be removed denies nothing, and is forgotten.
    """
    bucket = _find_profile(row, config)
    problem = "no bucket profile has this role any more" if bucket is None else None
    try:
        if bucket is not None:
            context.roles.remove(bucket, row.role_arn, row.sessions_from)
    except Transient as error:
        _note(row, str(error), context)
        return False
    except Malformed as error:
        problem = str(error)
    _note(row, None, context)
    if problem is not None:
        log.warning("role_policy_left", role=row.role_arn, policy=POLICY_NAME, problem=problem)
    with write_transaction(context.engine) as connection:
        delete_ended_sessions(connection, row)
    return True


def _note(row: EndedSessionsRow, problem: str | None, context: Context) -> None:
    context.problems.note("ended_sessions_left", row.role_arn, problem, role=row.role_arn)


def _find_profile(row: EndedSessionsRow, config: TenantConfig) -> Bucket | None:
    """Return a profile with the role: the one that ended its sessions, if it still has it."""
    return config.find_bucket(lambda each: each.role_arn == row.role_arn, [row.bucket])
