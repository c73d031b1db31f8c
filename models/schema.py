"""All tables together, with the indexes and the filter that only migrations need.

SQLAlchemy loads the dialect of each database that an index names, which takes a command that lists
the audit log a tenth of its time: so the indexes of some rows of the log are here.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Index, text

from models import deliveries, proofs, quotas, revocations, tenants  # noqa: F401 - adds tables
from models.base import Base as Base  # noqa: PLC0414 - a public name of this module
from models.grants import PARTITIONED, Chunk, Grant
from models.uses import Use

APPEND_ONLY = (
    *("batches", "chunks", "grants", "annotations", "reissues", "cancellations", "config_changes"),
    *("tenant_identities", "leaves", "checkpoints", "prunes", "item_edges", "refused_chunks"),
    *("uses", "settlements", "revocations", "erasures"),
)
"""The tables of the audit log. Triggers refuse to change or remove their rows."""

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


def is_in_models(name: str | None, type_: str, parent_names: Mapping[Any, str | None]) -> bool:
    """Return whether Alembic compares a part of the database with the models.

    Partitions and the column that assigns rows to them exist on PostgreSQL alone. The signature is
    that of Alembic's include_name.
    """
    if type_ == "table":
        return name is None or not name.startswith(f"{PARTITIONED}_")
    is_month = type_ == "column" and name == "month"
    return not (is_month and parent_names.get("table_name") == PARTITIONED)
