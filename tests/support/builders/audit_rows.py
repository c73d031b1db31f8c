"""Writes batches to the log as they are after a decision, without anything that decides."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert

from models import Batch, Chunk, Grant

MORNING = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def batch_id(number: int) -> str:
    return f"01932000-0000-7000-8000-{number:012d}"


@dataclass(frozen=True)
class AuditLogBuilder:
    """A batch: one key an item, and the codes of those that were refused."""

    number: int
    keys: list[str]
    codes: dict[int, str] = field(default_factory=dict)
    at: datetime = MORNING
    chunk_size: int = 2
    tenant: str = "acme"
    bucket: str = "demo"
    kind: str = "download"
    requested_by: str = "billing"
    reason: str | None = None
    signed_by: str | None = None
    id_of: int | None = None  # another number, whose id a tenant's own batch may have too

    @property
    def id(self) -> str:
        return batch_id(self.number if self.id_of is None else self.id_of)

    def write(self, connection: Connection) -> None:
        connection.execute(insert(Batch).values(self._batch()))
        for number in range(-(-len(self.keys) // self.chunk_size)):
            connection.execute(insert(Chunk).values(self._chunk(number)))
        connection.execute(insert(Grant), [self._grant(n) for n in range(len(self.keys))])

    def _batch(self) -> dict[str, Any]:
        claimed = ("number", "id", "tenant", "bucket", "kind", "requested_by", "reason")
        return {name: getattr(self, name) for name in claimed} | {
            "terms": {},
            "total": len(self.keys),
            "chunk_size": self.chunk_size,
            "fingerprint": bytes(32),
            "decided_at": self.at,
        }

    def _chunk(self, number: int) -> dict[str, Any]:
        first = number * self.chunk_size
        items = range(first, min(first + self.chunk_size, len(self.keys)))
        refused = sum(item in self.codes for item in items)
        return {
            "batch": self.number,
            "number": number,
            "fingerprint": bytes(32),
            "issued": len(items) - refused,
            "refused": refused,
            "issued_at": self.at + timedelta(seconds=number),
            "expires_in": 3_600,
            "limited_by": "request",
            "key": self.signed_by,
        }

    def _grant(self, number: int) -> dict[str, Any]:
        code = self.codes.get(number)
        digest = None if code else bytes(32)
        return {
            "batch": self.number,
            "number": number,
            "key": self.keys[number],
            "code": code,
            "digest": digest,
        }
