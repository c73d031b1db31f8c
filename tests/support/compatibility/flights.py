"""Batches of every kind that are in flight while the service changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, func, select

from models import Batch, Chunk, Grant, Usage
from tests.support.compatibility.releases import Producer
from tests.support.compatibility.services import TRUSTS, Service, tenant_of
from valetkey.client import new_id

PART = 5 * 1024**2  # bytes
ITEMS, CHUNK_SIZE = 6, 2
KINDS = ("download", "upload", "put", "multipart")
_OPTIONS: Mapping[str, dict[str, Any]] = {
    "download": {"filename": "statement.pdf"},
    "upload": {"max_size": 1_000, "content_type": "text/plain", "metadata": {"a": "b"}},
    "put": {"max_size": 1_000},
    "multipart": {"max_size": ITEMS * PART, "part_size": PART},
}
_SIZES = {"put": 9, "multipart": ITEMS * PART}


@dataclass(frozen=True)
class Flight:
    """A batch: its request, the results of its first chunk, and then those of the others."""

    name: str
    request: dict[str, Any]
    client: dict[str, Any]
    first: list[Any] = field(default_factory=list)
    rest: list[Any] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The batch id."""
        return str(self.request["batch_id"])

    @property
    def results(self) -> list[Any]:
        """The results of all items."""
        return self.first + self.rest


def new_flight(
    service: Service, kind: str, trust: str, items: int = ITEMS, chunk_size: int = CHUNK_SIZE
) -> Flight:
    """Return a batch that is not requested yet, of any kind but parts."""
    batch_id = new_id()
    keys = [f"{tenant_of(trust)}/{batch_id}/{number}" for number in range(items)]
    size = {"size": _SIZES[kind]} if kind in _SIZES else {}
    request = {
        "kind": kind,
        "bucket": "demo",
        "items": [{"key": key} | size for key in keys],
        "options": _OPTIONS[kind],
        "chunk_size": chunk_size,
        "batch_id": batch_id,
    }
    return Flight(f"{trust} {kind}", request, service.client(trust))


def _parts_flight(service: Service, trust: str, producer: Producer) -> Flight:
    """Return a batch of all parts of a multipart upload, which a producer requests first."""
    upload = new_flight(service, "multipart", trust, items=1)
    (grant,) = request_again(upload, producer)
    request = upload.request | {
        "kind": "parts",
        "items": [{"key": grant["key"], "part": number + 1} for number in range(ITEMS)],
        "options": {"of": grant["id"]},
        "batch_id": new_id(),
    }
    return Flight(f"{trust} parts", request, upload.client)


def open_flights(service: Service, producer: Producer) -> list[Flight]:
    """Request a batch of each kind for each tenant, and read the results of the first chunks."""
    flights = [
        _parts_flight(service, trust, producer)
        if kind == "parts"
        else new_flight(service, kind, trust)
        for trust in TRUSTS
        for kind in (*KINDS, "parts")
    ]
    for flight in flights:
        flight.first.extend(producer.call("open", flight.client, request=flight.request))
    return flights


def request_again(flight: Flight, producer: Producer) -> list[Any]:
    """Send all chunks of a batch, again if it is open, by any client; return the results."""
    results = producer.call("request", flight.client, request=flight.request)
    return results if isinstance(results, list) else [results]


def audit_counts(engine: Engine, batch_id: str) -> tuple[int, int, int]:
    """Count the rows of a batch: decided chunks, granted items and refused items."""
    number = select(Batch.batch_number).where(Batch.batch_id == batch_id).scalar_subquery()
    chunks = select(func.count()).where(Chunk.batch_number == number)
    items = select(func.count()).where(Grant.batch_number == number)
    is_granted = Grant.digest.is_not(None)
    queries = (chunks, items.where(is_granted), items.where(~is_granted))
    with engine.connect() as connection:
        issued_chunks, granted, refused = (connection.scalar(query) or 0 for query in queries)
    return issued_chunks, granted, refused


def charged_and_granted(engine: Engine, tenant: str) -> tuple[int, int]:
    """Return the grants charged to a tenant this month, and those among its audit rows."""
    charged = select(func.sum(Usage.grants)).where(Usage.tenant == tenant, Usage.window == "month")
    granted = (
        select(func.count())
        .select_from(Grant)
        .join(Batch, Batch.batch_number == Grant.batch_number)
        .where(Batch.tenant == tenant, Grant.digest.is_not(None), Batch.kind != "parts")
    )
    with engine.connect() as connection:
        return connection.scalar(charged) or 0, connection.scalar(granted) or 0
