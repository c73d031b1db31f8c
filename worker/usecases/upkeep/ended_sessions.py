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

_GRACE = timedelta(minutes=1)  # in which the command puts the policy, once it has waited

log = structlog.get_logger()


def keep_sessions_ended(context: Context) -> int:
    """Remove the policies that deny no session any more, and return their number.

    A policy that still does is put again if it is missing, or has an earlier moment. A row is
    deleted only after its policy was seen gone: a worker that still has a session from before the
    moment finds that it has expired. What fails is logged and tried again. Raises Transient if the
    database is out of reach.
    """
    with read_transaction(context.engine) as connection:
        rows = read_ended_sessions(connection)
    if not rows:
        return 0
    config, now = context.config.current(), context.now()
    removed = 0
    for row in rows:
        if now < row.sessions_from + _GRACE:
            continue
        has_lapsed = row.lapses_at <= now
        problem = _change(row, config, context, has_lapsed=has_lapsed)
        if problem is not None:
            log.warning("ended_sessions_left", role=row.role_arn, problem=problem)
        elif has_lapsed:
            with write_transaction(context.engine) as connection:
                delete_ended_sessions(connection, row)
            removed += 1
    return removed


def _change(
    row: EndedSessionsRow, config: TenantConfig, context: Context, *, has_lapsed: bool
) -> str | None:
    """Put or remove the policy of a role, and return why that failed, or None."""
    bucket = _find_profile(row, config)
    if bucket is None and has_lapsed:
        log.warning("role_policy_left", role=row.role_arn, policy=POLICY_NAME)  # it denies nothing
        return None
    if bucket is None:
        return "no bucket profile has this role any more: add one again"
    change = context.roles.remove if has_lapsed else context.roles.end_sessions
    try:
        change(bucket, row.role_arn, row.sessions_from)
    except (Malformed, Transient) as error:
        return str(error)
    return None


def _find_profile(row: EndedSessionsRow, config: TenantConfig) -> Bucket | None:
    """Return a profile with the role: the one that ended its sessions, if it still has it."""
    profiles = {b.name: b for b in config.buckets.values() if b.role_arn == row.role_arn}
    return profiles.get(row.bucket) or next(iter(profiles.values()), None)
