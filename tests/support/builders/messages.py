"""Messages as producers send them, and tenants as operators declare them, for tests to vary."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.core.tenants.config import Bucket, Policy, Quota, Tenant, TenantConfig

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
    """A fresh UUIDv7, its time bits as random as the others."""
    text = secrets.token_hex(16)
    return f"{text[:8]}-{text[8:12]}-7{text[13:16]}-8{text[17:20]}-{text[20:]}"


def grant_message(keys: Sequence[str] = ("acme/a.pdf",), **changes: Any) -> dict[str, Any]:
    """A valid request for downloads; a change whose name the grant knows goes there."""
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
    """A valid request for one download whose terms are changed."""
    request = grant_message()
    return request | {"grant": request["grant"] | changes}


def upload_message(keys: Sequence[str] = ("acme/a.png",), **changes: Any) -> dict[str, Any]:
    """A valid request for uploads whose terms are changed."""
    terms = {"kind": "upload", "bucket": "demo", "expires_in": 300, "max_size": 500_000}
    return grant_message(keys, grant=terms | {"content_type": "image/png"} | changes)


def put_message(sizes: Mapping[str, int], **changes: Any) -> dict[str, Any]:
    """A valid request for puts of these sizes by key, whose terms are changed."""
    terms = {"kind": "put", "bucket": "demo", "expires_in": 300, "max_size": 500_000}
    request = grant_message(list(sizes), grant=terms | {"content_type": "image/png"} | changes)
    items = [{"key": key, "size": size} for key, size in sizes.items()]
    return request | {"items": items}


def split_chunks(whole: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """A batch, whole in one message, as messages of so many items."""
    starts = range(0, whole["total"], size)
    return [
        whole | {"chunk_size": size, "chunk": n, "items": whole["items"][start : start + size]}
        for n, start in enumerate(starts)
    ]


def tenant_config(*quotas: Quota, **changes: Any) -> TenantConfig:
    """One bucket profile and one tenant, acme, with these quotas."""
    tenant = {"trust": "queue", "policies": {"demo": POLICY}, "quotas": quotas, **changes}
    return TenantConfig({"demo": DEMO}, {"acme": Tenant("acme", **tenant)})


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def forward(self, **by: float) -> None:
        """Move on by so many minutes, hours or days."""
        self.time += timedelta(**by)
