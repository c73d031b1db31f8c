"""A verification reads every column of the audit log, so that none can be changed unseen."""

from collections.abc import Collection
from typing import Any

import pytest

from models import (
    Batch,
    Cancellation,
    Chunk,
    ConfigChange,
    Grant,
    Leaf,
    Prune,
    Reissue,
    Settlement,
    Use,
)
from worker.db.tree.stored_rows import (
    BATCH,
    CANCELLATION,
    CHUNK,
    CONFIG_CHANGE,
    GRANT,
    LEAF,
    PRUNE,
    REISSUE,
    SETTLEMENT,
    USE,
)


@pytest.mark.parametrize(
    ("model", "columns"),
    [
        (Batch, BATCH),
        (Chunk, CHUNK),
        (Grant, GRANT),
        (Reissue, REISSUE),
        (Cancellation, CANCELLATION),
        (ConfigChange, CONFIG_CHANGE),
        (Prune, PRUNE),
        (Use, USE),
        (Settlement, SETTLEMENT),
        (Leaf, LEAF),
    ],
)
def test_every_column_is_read(model: Any, columns: Collection[str]) -> None:
    assert set(columns) == set(model.__table__.columns.keys())
