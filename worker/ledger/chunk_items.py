"""Joins a chunk to the rows of its items, and reads these and the producer's texts about them."""

from typing import Any

from sqlalchemy import Connection, bindparam, select

from models import Annotation, Grant
from worker.base.database_engine import DriverStatement
from worker.rules.annotations import SaltedTexts

_READ_ITEMS = DriverStatement(
    select(Grant.item_number, Grant.object_key, Grant.code, Grant.detail, Grant.digest)
    .where(Grant.batch_number == bindparam("batch"))
    .where(Grant.item_number >= bindparam("first"), Grant.item_number < bindparam("stop"))
    .order_by(Grant.item_number)
)
_READ_ANNOTATIONS = DriverStatement(
    select(*Annotation.__table__.c)
    .where(Annotation.batch_number == bindparam("batch"))
    .where(Annotation.item_number >= bindparam("first"))
    .where(Annotation.item_number < bindparam("stop"))
)


def read_items(connection: Connection, batch_number: int, items: range) -> list[Any]:
    """Read items of a batch: rows with the fields of `GrantRow`, in order."""
    params = {"batch": batch_number, "first": items.start, "stop": items.stop}
    return _READ_ITEMS.run(connection, params)


def read_annotations(
    connection: Connection, batch_number: int, items: range
) -> dict[int, SaltedTexts]:
    """Read the producer's texts about items of a batch, by item number."""
    params = {"batch": batch_number, "first": items.start, "stop": items.stop}
    rows = _READ_ANNOTATIONS.run(connection, params)
    return {number: SaltedTexts(*values) for _, number, *values in rows}
