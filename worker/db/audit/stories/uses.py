"""Everything that the database has about the uses of one grant."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, select

from models import Settlement, Use
from worker.core.uses.states import StateFacts
from worker.db.uses.states import read_state_facts

StoryRow = Row[*tuple[Any, ...]]
"""A row of a table, or some of its columns."""
MAX_USES = 100
"""A link may be opened a million times: only so many uses are read, the newest ones."""


class UseStory(NamedTuple):
    """The uses of a grant, oldest first, and the settlement of its chunk; None if there is none.

    facts are None for a refused item. number is that of all uses.
    """

    facts: StateFacts | None
    uses: Sequence[StoryRow]
    number: int
    settlement: StoryRow | None


def read_uses(
    connection: Connection, batch_number: int, item_number: int, chunk_number: int
) -> UseStory:
    """Read the uses of a grant."""
    facts = read_state_facts(connection, batch_number, [item_number])
    is_of_grant = Use.batch_number == batch_number, Use.item_number == item_number
    columns = [column for column in Use.__table__.columns if column.name not in _LEFT_OUT]
    newest = select(*columns).where(*is_of_grant)
    newest = newest.order_by(Use.occurred_at.desc(), Use.fingerprint.desc()).limit(MAX_USES)
    settlement = select(
        *(Settlement.unused, Settlement.used_bytes, Settlement.returned_bytes),
        Settlement.settled_at,
    ).where(Settlement.batch_number == batch_number, Settlement.chunk_number == chunk_number)
    return UseStory(
        facts.get(item_number),
        connection.execute(newest).all()[::-1],
        connection.scalar(select(func.count()).where(*is_of_grant)) or 0,
        connection.execute(settlement).first(),
    )


_LEFT_OUT = {"tenant", "batch_number", "item_number", "fingerprint", "group_id"}
