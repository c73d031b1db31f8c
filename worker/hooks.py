"""The hooks of the core: the functions through which features take part in the way of a grant.

They run in the order of the list of features. In a transaction, others wait for as long as a hook
takes, and one that raises fails the transaction. A feature names its functions in `Feature.hooks`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection

from valetkey.wire.messages import AnyMessage
from valetkey.wire.refusals import Refusal
from worker.features import hook_functions
from worker.rules.decisions import ChunkDecision, ChunkRequest
from worker.rules.issued_grants import IssuedItem
from worker.rules.quota_rules import UsageByWindow
from worker.rules.tenant_config import Tenant

log = structlog.get_logger()


class InsertedChunk(NamedTuple):
    """A chunk whose rows are inserted. opens_batch is true if its batch is inserted with it.

    charged is then the tenant's usage before and after the charge of the batch.
    """

    batch_number: int
    request: ChunkRequest
    decision: ChunkDecision
    prepared: Mapping[str, Any]
    opens_batch: bool
    charged: tuple[UsageByWindow, UsageByWindow] | None


class ReleasedRow(NamedTuple):
    """A reservation that was released. chunk_number is None for the chunks that did not arrive.

    upload_bytes are those that it reserved, since charged_at.
    """

    tenant: str
    batch_number: int
    chunk_number: int | None
    charged_at: datetime
    expires_at: datetime
    upload_bytes: int


def prepare(request: ChunkRequest, decision: ChunkDecision) -> Mapping[str, Any]:
    """Before the transaction: compute what `decided` needs, by names of the feature's own.

    The decision may still become a refusal of the whole chunk. Used by webhooks.
    """
    return {
        name: value
        for function in hook_functions("prepare")
        for name, value in function(request, decision).items()
    }


def decided(connection: Connection, chunks: Sequence[InsertedChunk], now: datetime) -> None:
    """In the transaction, after the rows of chunks of one tenant, and before their leaf.

    The tenant's usage rows may be locked already: do not lock any here. Used by webhooks.
    """
    for function in hook_functions("decided"):
        function(connection, chunks, now)


def released(
    connection: Connection, rows: Sequence[ReleasedRow], now: datetime
) -> set[tuple[int, int]]:
    """In the transaction that deletes reservations: of expired grants, and of closed batches.

    Returns the batch and chunk numbers of which the bytes stay charged. Used by uses, which asks
    storage first, and by webhooks.
    """
    return {
        key for function in hook_functions("released") for key in function(connection, rows, now)
    }


class GivenBack(NamedTuple):
    """The time of the charge of bytes that a hook has given back; None if they were before."""

    charged_at: datetime | None


def given_back(connection: Connection, chunk: tuple[int, int], size: int) -> GivenBack | None:
    """In the transaction that gives back bytes of a chunk without a reservation, by its numbers.

    Returns None if no feature has kept the chunk's bytes. Used by uses.
    """
    found = (function(connection, chunk, size) for function in hook_functions("given_back"))
    return next((each for each in found if each is not None), None)


def withdrawn(
    connection: Connection, tenant_id: str, issued_at: datetime, items: Iterable[IssuedItem]
) -> dict[int, Refusal]:
    """Before items that were issued are signed again: refuse some, by their number.

    Used by revoke.
    """
    refusals: dict[int, Refusal] = {}
    for function in hook_functions("withdrawn"):
        refusals |= function(connection, tenant_id, issued_at, items)
    return refusals


def committed(message: AnyMessage, tenant: Tenant, trigger: Callable[[str], None]) -> None:
    """After the producer has the result. It may only trigger tasks, whose work is in the database.

    A hook that raises is logged, and the result stands. Used by webhooks.
    """
    for function in hook_functions("committed"):
        try:
            function(message, tenant, trigger)
        except Exception:
            log.exception("committed_hook_failed", hook=function.__module__)


def batch_state(connection: Connection, batch_number: int) -> dict[str, Any]:
    """Return fields of BatchState, for a producer that reopens a batch. Used by webhooks."""
    return {
        name: value
        for function in hook_functions("batch_state")
        for name, value in function(connection, batch_number).items()
    }


def sessions_from(connection: Connection) -> dict[str, datetime]:
    """Return by role the time before which its sessions were ended, when the config is loaded."""
    return {
        role: time
        for function in hook_functions("sessions_from")
        for role, time in function(connection).items()
    }
