"""Tries what each grant needs: the config, a commit in the database, and signatures."""

import time
from collections.abc import Callable
from datetime import timedelta
from threading import Lock

from sqlalchemy import Connection

from models import Probe
from valetkey.signing.sigv4 import PROBE_KEY, UrlSigner
from worker.base.database_engine import write_transaction
from worker.base.inserts import insert_statement
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.rules.tenant_config import Bucket

CACHE_SECONDS = 1.0
"""The time for which a process answers with the same result, so that a flood costs little."""

ProbeResult = dict[str, str | None]
"""By part, `database` and `signing`, the cause of a failure in words without secrets, or None."""


class ServiceProbe:
    """Tries the service at most once in CACHE_SECONDS. Threads may share it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = Lock()
        self._result: ProbeResult = {}
        self._expires_at = float("-inf")

    def __call__(self, context: Context) -> ProbeResult:
        """Return what works now."""
        with self._lock:
            if self._monotonic() >= self._expires_at:
                self._result = try_service(context)
                self._expires_at = self._monotonic() + CACHE_SECONDS
            return self._result


def try_service(context: Context) -> ProbeResult:
    """Load the config, commit a row, and sign a URL for each bucket profile without a role.

    The row is committed, because only a commit reaches the disk on SQLite. The URLs are dropped.
    """
    try:
        config = context.config.current()
        with write_transaction(context.engine) as connection:
            _write_row(connection, context)
    except Transient as error:
        # Only after a failure: it imports the drivers of both databases.
        from worker.cli.database_failures import database_cause  # noqa: PLC0415

        return {"database": database_cause(error.__cause__ or error).text, "signing": None}
    buckets = (bucket for bucket in config.buckets.values() if bucket.role_arn is None)
    problems = (_signing_problem(bucket, context) for bucket in buckets)
    return {"database": None, "signing": next(filter(None, problems), None)}


def _write_row(connection: Connection, context: Context) -> None:
    statement = insert_statement(Probe, connection.dialect.name)
    values = {"probed_at": context.now()}
    connection.execute(
        statement.values(probe_number=1, **values).on_conflict_do_update(
            index_elements=["probe_number"], set_=values
        )
    )


def _signing_problem(bucket: Bucket, context: Context) -> str | None:
    now = context.now()
    try:
        credentials = context.s3.credentials(bucket, "", (), now, timedelta(0))
        target = context.s3.target(bucket)
    except Malformed:
        return f"bucket profile {bucket.name}: boto3 cannot sign for it"
    except Transient as error:
        return f"bucket profile {bucket.name}: {error}"
    if credentials.expires_at is not None and credentials.expires_at <= now:
        return f"bucket profile {bucket.name}: its credentials have expired"
    UrlSigner(credentials, target, method="GET", issued_at=now, expires_in=60).sign(PROBE_KEY)
    return None


answer_probe = ServiceProbe()
