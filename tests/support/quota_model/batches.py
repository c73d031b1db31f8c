"""The batches of the quota model: their items, the results of their chunks, and their costs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from valetkey.wire.refusals import Metric

METRICS: tuple[Metric, ...] = ("grants", "download_grants", "upload_bytes")
MAX_BYTES = 500_000  # of an upload or put
MAX_SECONDS = 86_400  # that the policy allows

ModelCost = tuple[int, int, int]
"""An amount of each metric, in the order of METRICS."""
ChunkResult = tuple[str | None, tuple[str | None, ...]]
"""The code of a chunk's refusal, if any, and the code of each item's refusal, if any."""
NO_COST: ModelCost = (0, 0, 0)


class ModelItem(NamedTuple):
    """A requested item: its size in bytes, and whether its key is within the tenant's prefixes."""

    size: int
    is_allowed: bool


@dataclass
class ModelBatch:
    """A requested batch, and the decisions on it.

    results are those of the decided chunks, by chunk number. open_until is set while quota is
    reserved for further chunks; the batch accepts them before that moment.
    """

    id: str
    kind: str
    expires_in: int
    chunk_size: int
    items: list[ModelItem]
    decided_at: datetime | None = None
    refusal: str | None = None
    open_until: datetime | None = None
    results: dict[int, ChunkResult] = field(default_factory=dict)

    @property
    def chunks(self) -> range:
        """The numbers of all chunks."""
        return range(-(-len(self.items) // self.chunk_size))

    def undecided(self) -> "ModelBatch":
        """Return the same request before any decision on it."""
        return ModelBatch(self.id, self.kind, self.expires_in, self.chunk_size, self.items)

    def chunk_items(self, chunk: int) -> list[ModelItem]:
        """Return the items of a chunk."""
        return self.items[chunk * self.chunk_size :][: self.chunk_size]

    def cost(self, items: list[ModelItem], *, reserved: bool) -> ModelCost:
        """Return the cost of items; reserved for items that are not known yet: their maximum."""
        count = len(items)
        if self.kind == "download":
            return (count, count, 0)
        is_exact = self.kind == "put" and not reserved
        return (count, 0, sum(item.size if is_exact else MAX_BYTES for item in items))

    def granted_cost(self, chunk: int) -> ModelCost:
        """Return the cost of a chunk's issued items; of all allowed ones before its decision."""
        allowed = [item for item in self.chunk_items(chunk) if item.is_allowed]
        is_refused = chunk in self.results and self.results[chunk][0] is not None
        return self.cost([] if is_refused else allowed, reserved=False)

    def is_open(self, now: datetime) -> bool:
        """Tell whether the batch accepts further chunks."""
        return self.open_until is not None and now < self.open_until

    def remaining_items(self) -> list[ModelItem]:
        """Return the items that quota is still reserved for.

        A chunk that arrives too late leaves its reservation to cleanup.
        """
        if self.open_until is None:
            return []
        return [
            item
            for chunk in self.chunks
            if self.results.get(chunk, ("batch_closed",))[0] == "batch_closed"
            for item in self.chunk_items(chunk)
        ]

    def costs(self) -> Iterator[ModelCost]:
        """Yield the cost of each decided chunk, and the cost reserved for the others."""
        yield from (self.granted_cost(chunk) for chunk in self.results)
        yield self.cost(self.remaining_items(), reserved=True)
