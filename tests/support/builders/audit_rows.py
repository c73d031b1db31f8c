"""Writes decided batches to the audit log, without a service that decides them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert

from models import Annotation, Batch, Chunk, Grant
from worker.audit.text_conditions import ERASED
from worker.ledger.merkle import key_thumbprint
from worker.rules.annotations import ANNOTATION_FIELDS, SALT_SUFFIX

MORNING = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def batch_id(number: int) -> str:
    return f"01932000-0000-7000-8000-{number:012d}"


@dataclass(frozen=True)
class AuditedBatch:
    """A batch: an object key per item, and the codes of refused items by item number.

    The first chunk is decided at decided_at, and each further one seconds_between_chunks later.
    With id_number, the batch has the id of the batch with that number, which belongs to another
    tenant. sizes are those that items name, by item number, and texts those of their own. A text
    `(erased)` was erased.
    """

    number: int
    object_keys: list[str]
    codes: dict[int, str] = field(default_factory=dict)
    decided_at: datetime = MORNING
    chunk_size: int = 2
    tenant: str = "acme"
    bucket: str = "demo"
    kind: str = "download"
    requested_by: str = "billing"
    reason: str | None = None
    signed_by: str | None = None
    expires_in: int = 3_600
    limited_by: str = "request"
    id_number: int | None = None
    recipient: str | None = None
    seconds_between_chunks: int = 1
    terms: dict[str, Any] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    texts: dict[int, dict[str, str]] = field(default_factory=dict)

    @property
    def key_thumbprint(self) -> str | None:
        return None if self.signed_by is None else key_thumbprint(self.signed_by)

    def write(self, connection: Connection) -> None:
        connection.execute(insert(Batch).values(self._batch_row()))
        for number in range(-(-len(self.object_keys) // self.chunk_size)):
            connection.execute(insert(Chunk).values(self._chunk_row(number)))
        rows = [self._grant_row(number) for number in range(len(self.object_keys))]
        connection.execute(insert(Grant), rows)
        if self.texts:
            connection.execute(
                insert(Annotation), [self._annotation(*each) for each in self.texts.items()]
            )

    def text(self, name: str, item: int) -> str | None:
        """Return what is shown of a text of an item."""
        return self.texts.get(item, {}).get(name, getattr(self, name, None))

    def _annotation(self, item: int, texts: dict[str, str]) -> dict[str, Any]:
        key = {"batch_number": self.number, "item_number": item}
        return key | _text_columns({name: texts.get(name) for name in ANNOTATION_FIELDS})

    def _batch_row(self) -> dict[str, Any]:
        same = ("tenant", "bucket", "kind", "terms", "chunk_size", "decided_at")
        texts = {name: getattr(self, name) for name in ("requested_by", "reason", "recipient")}
        return (
            {name: getattr(self, name) for name in same}
            | _text_columns(texts)
            | {
                "batch_number": self.number,
                "batch_id": batch_id(self.number if self.id_number is None else self.id_number),
                "total": len(self.object_keys),
                "fingerprint": bytes(32),
            }
        )

    def _chunk_row(self, number: int) -> dict[str, Any]:
        first = number * self.chunk_size
        items = range(first, min(first + self.chunk_size, len(self.object_keys)))
        refused = sum(item in self.codes for item in items)
        return {
            "batch_number": self.number,
            "chunk_number": number,
            "fingerprint": bytes(32),
            "issued": len(items) - refused,
            "refused": refused,
            "issued_at": self.decided_at + timedelta(seconds=number * self.seconds_between_chunks),
            "expires_in": self.expires_in,
            "limited_by": self.limited_by,
            "signing_key": self.signed_by,
            "key_thumbprint": self.key_thumbprint,
            "config_change": 0,
        }

    def _grant_row(self, number: int) -> dict[str, Any]:
        code = self.codes.get(number)
        return {
            "batch_number": self.number,
            "item_number": number,
            "object_key": self.object_keys[number],
            "code": code,
            "detail": self._detail(number, code),
            "digest": None if code else bytes(32),
        }

    def _detail(self, number: int, code: str | None) -> dict[str, Any] | None:
        if code is not None:
            return {"code": code, "message": "refused"}
        return {"size": self.sizes[number]} if number in self.sizes else None


def _text_columns(texts: dict[str, str | None]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, text in texts.items():
        columns[name] = None if text == ERASED else text
        columns[name + SALT_SUFFIX] = None if text is None else bytes(32)
    return columns
