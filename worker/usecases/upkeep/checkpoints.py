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
"""The time after which the job runs again if the database was away, or the key was unusable."""

REPUBLISH_SECONDS = 300.0
"""The time after which a destination that failed gets what it lacks."""


class CheckpointJob:
    """Signs and publishes checkpoints at most once in the interval of the settings.

    What fails is logged, stored for `doctor`, and tried again, at the latest after the interval.
    """

    def __init__(
        self, settings: Callable[[], Settings], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._sign_at = self._publish_at = 0.0

    def __call__(self, context: Context, run: JobRun | None = None) -> dict[str, int]:
        """Run if it is due. Returns counts. Raises Transient."""
        settings, now = self._settings(), self._monotonic()
        if now < min(self._sign_at, self._publish_at):
            return {}
        is_signing, interval = now >= self._sign_at, settings.audit_checkpoint_seconds
        self._sign_at = now + interval if is_signing else self._sign_at
        self._publish_at = self._sign_at
        run = run or JobRun()
        try:
            keys = configured_keys(settings)
            counts = _sign(context, keys, run) if is_signing else {}
            counts |= _publish(context, settings, run)
        except NoKey:
            return {}
        except KeyUnusable as error:
            self._sign_at = min(self._sign_at, now + RETRY_SECONDS)
            raise Transient(str(error)) from None
        except Transient:  # the database is away
            self._sign_at = min(self._sign_at, now + RETRY_SECONDS)
            raise
        if counts["failed"]:
            self._publish_at = now + min(interval, REPUBLISH_SECONDS)
        return counts


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
