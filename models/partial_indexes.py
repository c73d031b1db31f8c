"""The indexes of some rows of the audit log, which only the comparison with migrations needs.

SQLAlchemy loads the dialect of each database that an index names, which takes a command that lists
the log a tenth of its time.
"""

from sqlalchemy import Index, text

from models.grants import Chunk, Grant
from models.uses import Use

_IS_LATE = text("chunk_number > 0 AND issued = 0")
_IS_REFUSED = text("code IS NOT NULL")
_IS_EXCEPTION = text("verdict <> 'as_granted'")

# Chunks that were refused after their batch was closed: their times do not follow from its.
Index(
    "ix_chunks_late",
    *(Chunk.issued_at, Chunk.batch_number),
    postgresql_where=_IS_LATE,
    sqlite_where=_IS_LATE,
)
Index(
    "ix_grants_refused",
    *(Grant.code, Grant.batch_number, Grant.item_number),
    postgresql_where=_IS_REFUSED,
    sqlite_where=_IS_REFUSED,
)
# The few uses that are not as granted, which are looked for most often.
Index(
    "ix_uses_exceptions",
    *(Use.batch_number, Use.item_number),
    postgresql_where=_IS_EXCEPTION,
    sqlite_where=_IS_EXCEPTION,
)
