"""Keeps our statements in bucket policies until the last grant that they deny has expired."""

import json
from collections.abc import Sequence

from worker.context import Context
from worker.core.tenants.config import TenantConfig
from worker.core.tenants.storage_names import storage_name
from worker.db.engine import read_transaction, write_transaction
from worker.db.revocation.rows import DenialRow, delete_denials, read_denials
from worker.errors import Malformed, Transient
from worker.jobs.single_flight import JobRun
from worker.usecases.revocation.statements import change_bucket


def keep_denials(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Remove the statements that deny nothing any more, and return their number as `denials`.

    A statement that still denies a grant is added again if another process has overwritten the
    policy. A row is deleted only after its statement was seen gone; what fails is logged and tried
    again. Raises Transient if the database is out of reach.
    """
    run = run or JobRun()
    config = context.config.current()
    with read_transaction(context.engine) as connection:
        live, lapsed = read_denials(connection, context.now())
    removed = 0
    for storage in sorted({denial.storage for denial in [*live, *lapsed]}):
        if run.is_stopping:
            break
        here = [denial for denial in live if denial.storage == storage]
        ended = [denial for denial in lapsed if denial.storage == storage]
        problem = _change(storage, here, ended, config, context)
        sids = [denial.sid for denial in [*here, *ended]]
        context.problems.note("denials_left", storage, problem, storage=storage, statements=sids)
        if problem is None and ended:
            with write_transaction(context.engine) as connection:
                delete_denials(connection, [denial.sid for denial in ended])
            removed += len(ended)
        run.progress()
    return {"denials": removed}


def _change(
    storage: str,
    live: Sequence[DenialRow],
    lapsed: Sequence[DenialRow],
    config: TenantConfig,
    context: Context,
) -> str | None:
    """Add and remove the statements of one bucket, and return why that failed, or None."""
    # A profile that added a statement, if it still leads to the bucket.
    names = (denial.bucket for denial in [*live, *lapsed])
    bucket = config.find_bucket(lambda each: storage_name(each) == storage, names)
    if bucket is None:
        return "no bucket profile leads to this bucket any more: add one again"
    statements = [json.loads(denial.statement) for denial in live]
    try:
        change_bucket(bucket, statements, [denial.sid for denial in lapsed], context)
    except (Malformed, Transient) as error:
        return str(error)
    return None
