"""What a producer asks for, cut into messages. Pure: clock and randomness are arguments."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from valetkey.letters import Letter, letter
from valetkey.messages import LARGEST_CHUNK, VERSION, Item, task_id
from valetkey.options import http_date
from valetkey.terms import Download, Kind, Multipart, Parts, Put, Terms, Upload

_OF_HEADER = ("callback", "deadline", "reason")
_TERMS: dict[Kind, type[Terms]] = {
    "download": Download,
    "upload": Upload,
    "put": Put,
    "multipart": Multipart,
    "parts": Parts,
}

Asked = str | Item | Mapping[str, Any]
"""An item: its key, or all that is to be said of it; what is None is not said."""


def batch_id(milliseconds: int, randomness: bytes) -> str:
    """A UUIDv7 (RFC 9562, section 5.7) from Unix time and at least ten random bytes."""
    noise = int.from_bytes(randomness[:10]) & ~(0xF << 76 | 0b11 << 62)
    return str(UUID(int=milliseconds << 80 | 0x7 << 76 | 0b10 << 62 | noise))


def header(  # noqa: PLR0913 - the fields of a header, all by name
    *,
    kind: Kind,
    tenant: str,
    requested_by: str,
    bucket: str,
    batch: str,
    total: int,
    chunk_size: int,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What all chunks of a batch say alike, as JSON values.

    Raises TypeError for an option that its kind does not have, ValueError for a chunk size that
    no message may have or a date without a time zone.
    """
    unknown = sorted(options.keys() - known(kind))
    if unknown:
        raise TypeError(f"{kind} has no option {unknown[0]!r}")
    if not 1 <= chunk_size <= LARGEST_CHUNK:
        raise ValueError(f"chunk_size is from 1 to {LARGEST_CHUNK}")
    said = {name: value for name, value in options.items() if value is not None}
    terms = {name: _json(value) for name, value in said.items() if name not in _OF_HEADER}
    return {
        "v": VERSION,
        "tenant": tenant,
        "batch": batch,
        "requested_by": requested_by,
        "grant": {"kind": kind, "bucket": bucket, "expires_in": 3600} | terms,
        "total": total,
        "chunk_size": chunk_size,
    } | {name: _of_header(said[name]) for name in _OF_HEADER if name in said}


def known(kind: Kind) -> set[str]:
    """The options that a request of this kind may have."""
    return {*_TERMS[kind].model_fields, *_OF_HEADER} - {"kind", "bucket"}


def chunks(head: Mapping[str, Any], items: Iterable[Asked]) -> Iterator[Letter]:
    """Cut a batch into messages, reading no further ahead than the one asked for.

    Raises ValueError where the items are not as many as the header's total says.
    """
    rest, total, size = iter(items), head["total"], head["chunk_size"]
    for first in range(0, total, size):
        rows = [_row(item) for item in islice(rest, min(size, total - first))]
        if first + len(rows) < min(first + size, total):
            raise ValueError(f"total is {total}, but there are {first + len(rows)} items")
        if first + size >= total and next(rest, None) is not None:
            raise ValueError(f"total is {total}, but there are more items")
        number = first // size
        message = {**head, "chunk": number, "items": rows}
        yield letter(task_id(head["batch"], number), message)


def _row(item: Asked) -> dict[str, Any]:
    if isinstance(item, str):
        return {"key": item}
    if isinstance(item, Item):
        return item.model_dump(exclude_none=True)
    return {name: _json(value) for name, value in item.items() if value is not None}


def _json(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    return http_date(value) if isinstance(value, datetime) else value


def _of_header(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
