"""Follows the audit log: a page of it, and then what is committed."""

import time
from collections.abc import Iterator, Sequence

from sqlalchemy import Engine

from worker.db.audit.filters import GrantFilter
from worker.db.audit.grants import AuditRecord, read_grants
from worker.db.audit.selection.new_grants import read_heads, read_new_grants
from worker.db.engine import read_transaction

POLL_SECONDS = 1.0
_ROWS_PER_BLOCK = 500


def follow_grants(
    engine: Engine, grant_filter: GrantFilter, limit: int
) -> Iterator[Sequence[AuditRecord]]:
    """Yield the newest rows, oldest first, and then every row that is committed, without end."""
    with read_transaction(engine) as connection:
        # First: what is committed between the two reads is found again, and left out once.
        heads = read_heads(connection)
        page = read_grants(connection, grant_filter, limit).records[::-1]
    yield page
    printed = {(record.tenant, record.grant) for record in page}
    while True:
        block = []
        with read_transaction(engine) as connection:
            now = read_heads(connection)
            for record in read_new_grants(connection, grant_filter, heads, now):
                if (record.tenant, record.grant) not in printed:
                    block.append(record)
                if len(block) == _ROWS_PER_BLOCK:
                    yield block
                    block = []
        if block:
            yield block
        heads = now
        time.sleep(POLL_SECONDS)
