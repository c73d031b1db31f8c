"""Signs and publishes checkpoints of the audit log at an interval."""

import time
from collections.abc import Callable

import structlog

from worker.context import Context
from worker.errors import Transient
from worker.jobs.single_flight import JobRun
from worker.settings import Settings
from worker.usecases.checkpoints.publish import publish_checkpoints
from worker.usecases.checkpoints.sign import sign_checkpoints
from worker.usecases.checkpoints.signing_key import (
    CheckpointKeys,
    KeyUnusable,
    NoKey,
    configured_keys,
)

log = structlog.get_logger()

RETRY_SECONDS = 60.0
"""The time after which the job runs again if the database was away."""


class CheckpointJob:
    """Signs and publishes checkpoints at most once in the interval of the settings.

    What fails is logged, stored for `doctor`, and tried again at the next interval.
    """

    def __init__(
        self, settings: Callable[[], Settings], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._due_at = 0.0

    def __call__(self, context: Context, run: JobRun | None = None) -> dict[str, int]:
        """Run if it is due. Returns counts. Raises Transient."""
        settings, now = self._settings(), self._monotonic()
        if now < self._due_at:
            return {}
        self._due_at = now + settings.audit_checkpoint_seconds
        try:
            keys = configured_keys(settings)
        except NoKey:
            return {}
        except KeyUnusable as error:
            raise Transient(str(error)) from None
        run = run or JobRun()
        try:
            return _sign(context, keys, run) | _publish(context, settings, run)
        except Transient:  # the database is away
            self._due_at = min(self._due_at, now + RETRY_SECONDS)
            raise


def _sign(context: Context, keys: CheckpointKeys, run: JobRun) -> dict[str, int]:
    signed = refused = 0
    for result in sign_checkpoints(context, keys):
        run.progress()
        signed += result.is_new
        if result.problem is not None:
            refused += 1
            log.error("checkpoint_refused", tenant=result.tenant_id, problem=result.problem)
        if run.is_stopping:
            break
    return {"signed": signed, "refused": refused}


def _publish(context: Context, settings: Settings, run: JobRun) -> dict[str, int]:
    published = failed = 0
    for row in publish_checkpoints(context, settings):
        run.progress()
        published += row.problem is None
        if row.problem is not None:
            failed += 1
            fields = {"tenant": row.tenant_id, "destination": row.label}
            log.warning("checkpoint_not_published", problem=row.problem, **fields)
        if run.is_stopping:
            break
    return {"published": published, "failed": failed}
