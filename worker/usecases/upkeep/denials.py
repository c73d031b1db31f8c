"""Removes our statements from bucket policies, once the last grant that they denied has expired."""

from itertools import groupby
from typing import Any

import structlog

from worker.aws.bucket_policies import undeny
from worker.context import Context
from worker.db.engine import read_transaction, write_transaction
from worker.db.revocation.rows import delete_denials, lapsed_denials
from worker.errors import Malformed, Transient

_SESSION = "revocation"  # the name of a role's session in storage's logs

log = structlog.get_logger()


def remove_lapsed_denials(context: Context) -> int:
    """Remove the statements that deny nothing any more, and return their number.

    What storage refuses is logged and tried again. Raises Transient if the database is out of
    reach.
    """
    now, config = context.now(), context.config.current()
    with read_transaction(context.engine) as connection:
        lapsed = sorted(lapsed_denials(connection, now), key=lambda denial: denial.bucket)
    removed = 0
    for profile, group in groupby(lapsed, key=lambda denial: denial.bucket):
        sids = [denial.sid for denial in group]
        bucket = config.buckets.get(profile)
        if bucket is not None:
            try:
                client: Any = context.s3.client(bucket, _SESSION, ("*",), now)
                undeny(client, bucket.bucket, sids)
            except (Malformed, Transient) as error:
                log.warning("denials_left", bucket=profile, problem=str(error))
                continue
        else:
            log.warning("denials_left", bucket=profile, problem="there is no such bucket profile")
        with write_transaction(context.engine) as connection:
            delete_denials(connection, sids)
        removed += len(sids)
    return removed
