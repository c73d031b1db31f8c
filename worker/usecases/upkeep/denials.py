"""Keeps our statements in bucket policies until the last grant that they deny has expired."""

from collections.abc import Iterable, Mapping

import structlog

from worker.context import Context
from worker.core.tenants.storage_names import storage_name
from worker.db.engine import read_transaction
from worker.db.revocation.rows import read_denials
from worker.errors import Malformed, Transient
from worker.jobs.single_flight import JobRun
from worker.usecases.revocation.statements import keep_statements

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
        if _keep(storage, [denial.bucket for denial in here], context):
            removed += len([denial for denial in here if denial in lapsed])
        run.progress()
    return {"denials": removed}


def _keep(storage: str, profiles: Iterable[str], context: Context) -> bool:
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
