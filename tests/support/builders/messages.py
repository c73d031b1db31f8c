"""Messages of producers and tenant configs of operators, with defaults that tests change."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.rules.tenant_config import Bucket, Policy, Quota, Tenant, TenantConfig

DEMO = Bucket("demo", "valetkey-demo", "us-east-1", "path", "http://127.0.0.1:9")
POLICY = Policy(
    bucket="demo",
    prefixes=("acme/",),
    kinds=("download", "upload", "put", "multipart"),
    max_expires_in=86_400,
    max_size=1_000_000,
    content_types=("application/octet-stream", "image/*"),
    acls=("public-read",),
)


def batch_id() -> str:
    """Return a new UUIDv7 whose time bits are random too."""
    text = secrets.token_hex(16)
    return f"{text[:8]}-{text[8:12]}-7{text[13:16]}-8{text[17:20]}-{text[20:]}"


def grant_message(keys: Sequence[str] = ("acme/a.pdf",), **changes: Any) -> dict[str, Any]:
    """Return a valid request for downloads, with changed header fields."""
    grant = {"kind": "download", "bucket": "demo", "expires_in": 300}
    header: dict[str, Any] = {
        "v": 1,
        "tenant": "acme",
        "batch": batch_id(),
        "requested_by": "billing-nightly",
        "reason": "statements 11/2026",
        "grant": grant,
        "total": len(keys),
        "chunk": 0,
        "items": [{"key": key} for key in keys],
    }
    return header | changes


def download_message(**changes: Any) -> dict[str, Any]:
    """Return a valid request for one download, with changed terms."""
    request = grant_message()
    return request | {"grant": request["grant"] | changes}


def upload_message(keys: Sequence[str] = ("acme/a.png",), **changes: Any) -> dict[str, Any]:
    """Return a valid request for uploads, with changed terms."""
    terms = {"kind": "upload", "bucket": "demo", "expires_in": 300, "max_size": 500_000}
    return grant_message(keys, grant=terms | {"content_type": "image/png"} | changes)


def put_message(sizes: Mapping[str, int], **changes: Any) -> dict[str, Any]:
    """Return a valid request for puts, with sizes by object key and changed terms."""
    terms = {"kind": "put", "bucket": "demo", "expires_in": 300, "max_size": 500_000}
    request = grant_message(list(sizes), grant=terms | {"content_type": "image/png"} | changes)
    items = [{"key": key, "size": size} for key, size in sizes.items()]
    return request | {"items": items}


def multipart_message(
    keys: Sequence[str] = ("acme/a",), size: int = 1_000, **changes: Any
) -> dict[str, Any]:
    """Return a valid request for multipart uploads of this size, with changed terms."""
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "max_size": size}
    items = [{"key": key, "size": size} for key in keys]
    return grant_message(keys, grant=terms | changes, items=items)


def parts_message(of: str, *parts: int, key: str = "acme/a", **changes: Any) -> dict[str, Any]:
    """Return a request for parts of the multipart upload of a grant, with changed terms."""
    terms = {"kind": "parts", "bucket": "demo", "expires_in": 600, "of": of}
    items = [{"key": key, "part": part} for part in parts]
    return grant_message([key] * len(parts), grant=terms | changes, items=items)


def about_batch(batch: str, ask: str = "batch", **fields: Any) -> dict[str, Any]:
    """Return a message of acme about a batch; without an ask, it asks for its state."""
    return {"v": 1, "ask": ask, "tenant": "acme", "batch": batch, **fields}


def split_chunks(batch: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Split a message with all items of a batch into messages with at most `size` items each."""
    starts = range(0, batch["total"], size)
    return [
        batch | {"chunk_size": size, "chunk": n, "items": batch["items"][start : start + size]}
        for n, start in enumerate(starts)
    ]


def download_chunks(items: int, size: int) -> list[dict[str, Any]]:
    """Return the chunks of a new batch of downloads."""
    return split_chunks(grant_message([f"acme/{n}" for n in range(items)]), size)


def tenant_config(*quotas: Quota, **changes: Any) -> TenantConfig:
    """Return a config with one bucket profile and one tenant, acme, which trusts the queue."""
    tenant = {"trust": "queue", "policies": {"demo": POLICY}, "quotas": quotas, **changes}
    return TenantConfig({"demo": DEMO}, {"acme": Tenant("acme", **tenant)})


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def forward(self, **duration: float) -> None:
        """Move the clock forward; takes the arguments of timedelta."""
        self.time += timedelta(**duration)
