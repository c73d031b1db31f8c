"""Compares trees with their published checkpoints, and declares forks.

A restored older copy of the database grows into another tree than the published one: a fork. If it
is declared in a leaf, auditors see it and its reason, and do not take it for tampering.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from sqlalchemy import Connection

from worker.base.database_engine import read_transaction, write_transaction
from worker.errors import Malformed, Transient
from worker.ledger.merkle import NO_LEAVES, RightEdge, entry_hash
from worker.ledger.tree_leaves import NewLeaf, append_leaf
from worker.proof.checkpoint_destinations import Destinations, names_of
from worker.proof.checkpoint_format import CheckpointText, Fork
from worker.proof.checkpoint_rows import (
    StoredCheckpoint,
    leaf_hashes,
    read_forks,
    read_head,
    read_last_checkpoint,
    read_publications,
    store_publication,
)
from worker.proof.proof_settings import (
    Destination,
    WebhookDestination,
    configured_destinations,
    destination_id,
)

MAX_LOST_SECONDS = 60.0
"""The time that a destination's failures may take in a run. Other destinations wait meanwhile."""

CONTRADICTION = "which this log does not continue"
"""The words of a problem that a declared fork ends."""

NOT_COMPARED = "no destination can be compared"
"""The words of the problem that no destination answers."""


class InconsistentLog(Exception):
    """The log does not continue its last checkpoint: rows were changed or removed."""


FAILURES = (Transient, Malformed, OSError, InconsistentLog)
"""The errors for which a destination is not compared, or gets nothing."""


def describe_failure(error: BaseException) -> str:
    """Return the text of one of the FAILURES."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return text or type(error).__name__


def edge_at(connection: Connection, last: StoredCheckpoint) -> RightEdge:
    """Return the right edge at a checkpoint, from its row or else from all its leaves.

    Raises InconsistentLog.
    """
    with suppress(ValueError):
        edge = RightEdge.from_bytes(last.size, last.edge or b"")
        if edge.root() == last.root:
            return edge
    edge = NO_LEAVES.extend(leaf_hashes(connection, last.tenant, 0, last.size))
    if (edge.size, edge.root()) != (last.size, last.root):
        raise InconsistentLog(
            f"the first {last.size:,} leaves are not those of the last checkpoint: they were"
            " changed or removed"
        )
    return edge


def _continues(connection: Connection, tenant_id: str, text: CheckpointText) -> bool:
    """Return whether a tree continues a checkpoint: its leaves lead from that to its head."""
    head = read_head(connection, tenant_id)
    if head is None or head.size < text.size:
        return False
    start = read_last_checkpoint(connection, tenant_id, text.size)
    edge = NO_LEAVES if start is None else edge_at(connection, start)
    edge = edge.extend(leaf_hashes(connection, tenant_id, edge.size, text.size))
    whole = edge.extend(leaf_hashes(connection, tenant_id, edge.size, head.size))
    return edge.root() == text.root and whole.to_bytes() == head.edge


def find_contradictions(
    destinations: Destinations, destination: Destination, tenant_id: str, size: int
) -> Iterator[tuple[str, CheckpointText]]:
    """Yield the checkpoints at a destination that a tree does not continue, the largest first.

    Each is a note and its text. Ends at the first checkpoint that the tree continues, and at those
    with less than size leaves. Leaves out those of declared forks. Raises FAILURES.
    """
    abandoned: set[str] | None = None
    for name in reversed(destinations.names(destination, tenant_id, size)):
        if abandoned is not None and name in abandoned:
            continue
        note, text = destinations.read(destination, tenant_id, name)
        # Read afterwards: another process may have signed and published it since.
        with read_transaction(destinations.context.engine) as connection:
            if _continues(connection, tenant_id, text):
                return
            if abandoned is None:
                abandoned = abandoned_names(connection, tenant_id)
        if name not in abandoned:
            yield note, text


def abandoned_names(connection: Connection, tenant_id: str) -> set[str]:
    """Return the names of the checkpoints that a tree's declared forks abandon."""
    forks = read_forks(connection, tenant_id)
    return {name for fork in forks for text in fork.heads for name in names_of(text)}


def describe_contradiction(text: CheckpointText) -> str:
    """Return the problem of a destination with a checkpoint that a tree does not continue."""
    return f"it has a checkpoint of {text.size:,} leaves, {CONTRADICTION}"


class Comparison:
    """Compares trees with the destinations that can be read, in one run.

    rows are the last attempts to publish, by destination and tenant.
    """

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self._engine = destinations.context.engine
        self._lost_seconds: defaultdict[Destination, float] = defaultdict(float)
        with read_transaction(self._engine) as connection:
            rows = read_publications(connection)
        self.rows = {(row.destination, row.tenant): row for row in rows}

    def find_problem(self, tenant_id: str) -> str | None:
        """Return why the head of a tree must not be signed, or None.

        Costs a list of the newest names and one checkpoint from each destination. Stores which of
        them failed: they get nothing until they are compared again.
        """
        problems, is_contradicted = [], False
        readable = self.readable()
        for destination in readable:
            row = self.rows.get((destination_id(destination), tenant_id))
            notes, problem = self._compare(destination, tenant_id, row.size if row else 0, limit=1)
            is_contradicted |= bool(notes)
            problems += [] if problem is None else [f"{destination.label}: {problem}"]
            if row is not None and row.problem != problem:
                with write_transaction(self._engine) as connection:
                    store_publication(connection, row._replace(problem=problem))
        if is_contradicted:
            return "; ".join(problems)
        is_unknown = problems and len(problems) == len(readable)
        return f"{NOT_COMPARED}: {'; '.join(problems)}" if is_unknown else None

    def declare_fork(self, tenant_id: str, reason: str, author: str) -> Fork | None:
        """Append a leaf that declares a fork, and return it; None if no destination contradicts.

        Reads every contradicting checkpoint, so that the leaf names each that an auditor may have.
        """
        sizes: dict[str, int] = {}
        for destination in self.readable():
            sizes |= self._compare(destination, tenant_id, 0)[0]
        if not sizes:
            return None
        notes = sorted(sizes, key=lambda note: sizes[note])
        now = self._destinations.context.now()
        fork = Fork(tenant_id, notes, reason, author, f"{now:%Y-%m-%dT%H:%M:%S.%fZ}")
        leaf = NewLeaf("fork", entry_hash([fork.record.encode()]), reference=fork.record)
        with write_transaction(self._engine) as connection:
            append_leaf(connection, tenant_id, leaf)
        return fork

    def readable(self) -> list[Destination]:
        """Return the destinations without webhooks, from which nothing can be read."""
        destinations = configured_destinations(self._destinations.settings)
        return [each for each in destinations if not isinstance(each, WebhookDestination)]

    def _compare(
        self, destination: Destination, tenant_id: str, size: int, limit: int | None = None
    ) -> tuple[dict[str, int], str | None]:
        """Return the contradicting notes with their sizes, and the problem of the destination.

        Those that were read before one that cannot be read are returned, too.
        """
        if self._lost_seconds[destination] >= MAX_LOST_SECONDS:
            return {}, "it failed for too long in this run"
        started, sizes, problem = time.monotonic(), dict[str, int](), None
        try:
            contradictions = find_contradictions(self._destinations, destination, tenant_id, size)
            for note, text in islice(contradictions, limit):
                sizes[note] = text.size
                problem = problem or describe_contradiction(text)
        except FAILURES as error:
            self._lost_seconds[destination] += time.monotonic() - started
            problem = describe_failure(error)
        return sizes, problem
