"""The record of what producers asked for and what they were told."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Lock
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from valetkey import Grant, Refusal

ItemId = tuple[str, int]
"""A batch id and the number of an item in that batch."""


class ToldResult(NamedTuple):
    """A result as a producer was told it: a grant's id and signature digest, or a refusal code."""

    key: str
    grant_id: str | None = None
    digest: bytes | None = None
    code: str | None = None


@dataclass
class Record:
    """Requests and results of all producers of one run.

    asked has the object key of each requested item, told the results of each item. calls counts the
    completed calls of each producer; slowest is the longest of them, in seconds.
    """

    asked: dict[ItemId, str] = field(default_factory=dict)
    told: defaultdict[ItemId, list[ToldResult]] = field(default_factory=lambda: defaultdict(list))
    calls: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    slowest: float = 0.0
    _lock: Lock = field(default_factory=Lock)

    def ask(self, batch_id: str, keys: Sequence[str]) -> None:
        """Note the items of a request."""
        with self._lock:
            self.asked |= {(batch_id, number): key for number, key in enumerate(keys)}

    def tell(self, item: ItemId, result: Grant | Refusal, key: str) -> None:
        """Note a result of an item."""
        self.tell_result(item, told_result(result, key))

    def tell_result(self, item: ItemId, result: ToldResult) -> None:
        """Note a result of an item."""
        with self._lock:
            self.told[item].append(result)

    def complete_call(self, producer: str, began: float) -> None:
        """Note that a producer's call returned; began is the time.monotonic() of its start."""
        with self._lock:
            self.calls[producer] = self.calls.get(producer, 0) + 1
            self.slowest = max(self.slowest, time.monotonic() - began)

    def fail(self, producer: str, error: Exception) -> None:
        """Note a call that raised an error instead of returning."""
        with self._lock:
            self.errors.append(f"{producer}: {error!r}")

    @property
    def answered(self) -> int:
        """The number of items with a result."""
        return len(self.told)


def told_result(result: Grant | Refusal, key: str) -> ToldResult:
    """Return a result as it is noted; key is that of the item, which a refusal need not name."""
    if isinstance(result, Refusal):
        return ToldResult(result.key or key, code=str(result.code))
    return told_grant({"id": result.id, "key": result.key, "url": result.url})


def told_grant(grant: Mapping[str, str]) -> ToldResult:
    """Return a grant, given as the JSON values of a reply, as it is noted."""
    signature = parse_qs(urlsplit(grant["url"]).query)["X-Amz-Signature"][0]
    return ToldResult(grant["key"], grant["id"], sha256(signature.encode()).digest())
