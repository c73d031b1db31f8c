"""The batches of a fake service: what it decided, and the grants that it signs again."""

import gzip
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from valetkey.signing.signers import SIGNERS
from valetkey.signing.signing_context import (
    NO_UPLOAD,
    SigningContext,
    StartedUpload,
    Validity,
    plan_parts,
)
from valetkey.signing.sigv4 import Credentials, Target
from valetkey.testing.policy import Quota, window_bounds
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import ChunkMessage, Item
from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.replies import ManifestState

ACCESS_KEY, SECRET_KEY, REGION = "AKIDEXAMPLE", "not-a-secret", "us-east-1"
_CREDENTIALS = Credentials(ACCESS_KEY, SECRET_KEY)
_OWNER = "111122223333"


class OpenUpload(NamedTuple):
    """A multipart upload, its object key, and its end."""

    key: str
    started: StartedUpload
    expires_at: datetime

    def has_part(self, item: Item) -> bool:
        """Return true if an item is a part of this upload."""
        return item.key == self.key and (item.part or 1) <= self.started.plan.part_count


@dataclass
class Chunk:
    """A decided chunk: a refusal or None for each item, and the validity of its grants.

    refusal is set if the whole chunk is refused. upload is the one whose parts it has.
    """

    message: ChunkMessage
    validity: Validity
    refusals: list[Refusal | None]
    refusal: Refusal | None = None
    upload: OpenUpload | None = None

    @property
    def issued_items(self) -> list[Item]:
        """The items that were granted."""
        pairs = zip(self.message.items, self.refusals, strict=True)
        return [item for item, refusal in pairs if refusal is None]

    def started_upload(self, number: int) -> StartedUpload:
        """Return the multipart upload of an item, or the one whose parts are requested."""
        message = self.message
        if message.grant.kind != "multipart":
            return NO_UPLOAD if self.upload is None else self.upload.started
        size = message.items[number - message.first_item].size or 0
        plan = plan_parts(size, message.grant.part_size) or NO_UPLOAD.plan
        return StartedUpload(f"upload-{grant_id(message.batch, number)}", plan)

    def results(self, endpoint: str) -> list[dict[str, Any]]:
        """Return the results of the items as JSON values, signed for storage at this URL."""
        message, bucket, address = self.message, self.message.grant.bucket, urlsplit(endpoint)
        target = Target(address.scheme, address.netloc, f"/{bucket}/", REGION)
        context = SigningContext(bucket, _OWNER, target, _CREDENTIALS, self.validity)
        sign, results = SIGNERS[message.grant.kind](message.grant, context), []
        for number, item in enumerate(message.items, message.first_item):
            refusal = self.refusals[number - message.first_item]
            if refusal is None:
                id_ = grant_id(message.batch, number)
                result = sign(id_, item, self.started_upload(number))[0]
            else:
                result = refusal.model_dump(mode="json", exclude_none=True)
            results.append(result if item.ref is None else result | {"ref": item.ref})
        return results


@dataclass
class Batch:
    """A batch that was received; its header is that of its first message.

    reissue_of is the id of the earlier grant whose object it grants again.
    """

    header: ChunkMessage
    began_at: datetime
    reissue_of: str | None = None
    refusal: Refusal | None = None
    is_cancelled: bool = False
    is_aborted: bool = False
    chunks: dict[int, Chunk] = field(default_factory=dict)

    @property
    def undecided(self) -> int:
        """The number of items without a decision."""
        decided = sum(len(chunk.refusals) for chunk in self.chunks.values())
        return self.header.total - decided

    @property
    def issued(self) -> int:
        """The number of granted items."""
        return sum(len(chunk.issued_items) for chunk in self.chunks.values())

    @property
    def refused(self) -> int:
        """The number of refused items."""
        return self.header.total - self.undecided - self.issued

    def conflicts_with(self, message: ChunkMessage, reissue_of: str | None) -> bool:
        """Return true if its id was used for another request, or the chunk for other items."""
        chunk = self.chunks.get(message.chunk)
        is_changed = _header(message) != _header(self.header) or reissue_of != self.reissue_of
        return is_changed or (chunk is not None and chunk.message.items != message.items)

    def item(self, number: int) -> tuple[Chunk, Item, Refusal | None] | None:
        """Return an item of a decided chunk with its refusal, if any; None if undecided."""
        chunk = self.chunks.get(number // self.header.chunk_size)
        if chunk is None:
            return None
        index = number - chunk.message.first_item
        return chunk, chunk.message.items[index], chunk.refusals[index]

    def open_upload(self, number: int) -> OpenUpload | None:
        """Return the multipart upload of an item; None if it was not granted as such."""
        found = self.item(number) if self.header.grant.kind == "multipart" else None
        if found is None or found[2] is not None or self.is_aborted:
            return None
        return OpenUpload(
            found[1].key, found[0].started_upload(number), found[0].validity.expires_at
        )

    def abort_uploads(self) -> set[str]:
        """End its multipart uploads; return the ids of their grants."""
        numbers = [number for number in range(self.header.total) if self.open_upload(number)]
        self.is_aborted = True
        return {grant_id(self.header.batch, number) for number in numbers}

    def cost(self, metric: str, now: datetime | None = None) -> int:
        """Return its charge in a metric; with a time, only of what is live then."""
        terms = self.header.grant
        if terms.kind == "parts" or (metric == "download_grants" and terms.kind != "download"):
            return 0
        chunks = [c for c in self.chunks.values() if now is None or now < c.validity.expires_at]
        items = [item for chunk in chunks for item in chunk.issued_items]
        is_open = self.refusal is None and not self.is_cancelled
        reserved = self.undecided if is_open else 0
        if metric.endswith("grants"):
            return len(items) + reserved
        largest: int = getattr(terms, "max_size", 0)
        sizes = [largest if terms.kind == "upload" else item.size or 0 for item in items]
        return 0 if terms.kind == "download" else sum(sizes) + reserved * largest

    def grow_older(self, age: timedelta) -> None:
        """Move its begin and its grants to so much earlier times."""
        self.began_at -= age
        for chunk in self.chunks.values():
            validity = chunk.validity
            chunk.validity = validity._replace(issued_at=validity.issued_at - age)

    def expire(self, now: datetime) -> None:
        """End its grants now."""
        for chunk in self.chunks.values():
            begin = now.replace(microsecond=0) - timedelta(seconds=chunk.validity.expires_in)
            chunk.validity = chunk.validity._replace(issued_at=begin)

    def manifest_state(self, endpoint: str) -> ManifestState | None:
        """Return the state of its manifest, which is written once every item is decided."""
        key = self.header.manifest
        if key is None or self.undecided:
            return None if key is None else ManifestState(key=key, state="pending")
        chunks = sorted(self.chunks.items())
        lines = [json.dumps(line) for _, chunk in chunks for line in chunk.results(endpoint)]
        content = gzip.compress("\n".join([*lines, ""]).encode(), mtime=0)
        return ManifestState(
            key=key,
            state="written",
            issued=self.issued,
            refused=self.refused,
            bytes=len(content),
            sha256=sha256(content).hexdigest(),
        )


def _header(message: ChunkMessage) -> dict[str, Any]:
    return message.model_dump(exclude={"ask", "chunk", "items"})


def quota_states(
    quotas: Iterable[Quota], batches: Collection[Batch], now: datetime
) -> Iterator[QuotaState]:
    """Yield the state of each quota, given the batches that were charged."""
    for quota in quotas:
        start, end = window_bounds(quota.window, now)
        metric = "upload_bytes" if quota.metric == "stored_bytes" else quota.metric
        time = now if quota.window == "live" else None
        used = sum(batch.cost(metric, time) for batch in batches if batch.began_at >= start)
        yield QuotaState(**quota.model_dump(), used=used, resets_at=end)


class Stored(NamedTuple):
    """An object that storage has, of the grant that stored it."""

    size: int
    stored_at: datetime
    etag: str
    content_type: str | None
