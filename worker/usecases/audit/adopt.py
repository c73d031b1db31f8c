"""Appends leaves for audit rows that have none: those of the release before the trees."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter

from sqlalchemy import Connection, Engine

from worker.db.audit.changes import ChangeAuthor, record_changes
from worker.db.engine import acquire_advisory_lock, write_transaction
from worker.db.tree.append import NewLeaf, append_leaves
from worker.db.tree.uncovered import (
    chunk_leaf,
    uncovered_cancellations,
    uncovered_changes,
    uncovered_chunks,
    uncovered_reissues,
)

_MAX_LEAVES = 50  # in one transaction, for whose end the workers of the tenant wait
_BEFORE_ALL = (-1, -1)
_PATH = "audit.adopted"


@dataclass(slots=True)
class Adopted:
    """The number of rows of each table that have got a leaf."""

    chunks: int = 0
    reissues: int = 0
    cancellations: int = 0
    changes: int = 0

    @property
    def total(self) -> int:
        """The number of leaves."""
        return self.chunks + self.reissues + self.cancellations + self.changes


def adopt_rows(
    engine: Engine,
    before: datetime,
    author: ChangeAuthor,
    on_progress: Callable[[Adopted], None] = lambda _adopted: None,
) -> Adopted:
    """Append a leaf for each chunk, reissue, cancellation and change before a moment without one.

    Each transaction appends a limited number, and what it has appended stays if a later one does
    not happen: call it again to continue. The first transaction also records the author. Raises
    Transient.
    """
    return _Adoption(engine, before, author, on_progress).run()


class _Adoption:
    def __init__(
        self,
        engine: Engine,
        before: datetime,
        author: ChangeAuthor,
        on_progress: Callable[[Adopted], None],
    ) -> None:
        self._engine = engine
        self._before = before
        self._author = author
        self._on_progress = on_progress
        self._adopted = Adopted()

    def run(self) -> Adopted:
        """Append all leaves."""
        after = _BEFORE_ALL
        while True:
            with write_transaction(self._engine) as connection:
                chunks = self._adopt_chunks(connection, after)
            self._on_progress(self._adopted)
            if len(chunks) < _MAX_LEAVES:
                break
            after = chunks[-1]
        for name, find in (
            ("reissues", uncovered_reissues),
            ("cancellations", uncovered_cancellations),
            ("changes", uncovered_changes),
        ):
            while self._adopt_others(name, find) == _MAX_LEAVES:
                self._on_progress(self._adopted)
        self._on_progress(self._adopted)
        return self._adopted

    def _adopt_chunks(
        self, connection: Connection, after: tuple[int, int]
    ) -> list[tuple[int, int]]:
        acquire_advisory_lock(connection, _PATH)
        chunks = uncovered_chunks(connection, self._before, after, _MAX_LEAVES)
        for chunk in chunks:
            # One after the other: the leaf of a batch's first chunk decides on the others.
            tenant, leaf = chunk_leaf(connection, *chunk)
            append_leaves(connection, tenant, [leaf])
        self._record(connection, len(chunks))
        self._adopted.chunks += len(chunks)
        return chunks

    def _adopt_others(
        self,
        name: str,
        find: Callable[[Connection, datetime, int], list[tuple[str, NewLeaf]]],
    ) -> int:
        with write_transaction(self._engine) as connection:
            acquire_advisory_lock(connection, _PATH)
            found = find(connection, self._before, _MAX_LEAVES)
            for tenant, leaves in groupby(sorted(found, key=itemgetter(0)), key=itemgetter(0)):
                append_leaves(connection, tenant, [leaf for _, leaf in leaves])
            self._record(connection, len(found))
        setattr(self._adopted, name, getattr(self._adopted, name) + len(found))
        return len(found)

    def _record(self, connection: Connection, count: int) -> None:
        """Record who adopts, with the first rows."""
        if count and not self._adopted.total:
            change = (_PATH, None, {"before": self._before.isoformat()})
            record_changes(connection, [change], self._author)
