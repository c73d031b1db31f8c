"""The tables that are never changed, and the filter that migrations need."""

from collections.abc import Mapping
from typing import Any

from models.base import AppendOnly
from models.grants import PARTITIONED

APPEND_ONLY = tuple(table.__tablename__ for table in AppendOnly.__subclasses__())
"""The tables of the audit log. Triggers refuse to change or remove their rows."""


def is_in_models(name: str | None, type_: str, parent_names: Mapping[Any, str | None]) -> bool:
    """Return whether Alembic compares a part of the database with the models.

    Partitions and the column that assigns rows to them exist on PostgreSQL alone. The signature is
    that of Alembic's include_name.
    """
    if type_ == "table":
        return name is None or not name.startswith(f"{PARTITIONED}_")
    is_month = type_ == "column" and name == "month"
    return not (is_month and parent_names.get("table_name") == PARTITIONED)
