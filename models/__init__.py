"""The tables, grouped by topic, and the migrations that create them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.deliveries import Delivery, EndpointCircuit, Manifest
    from models.grants import (
        Annotation,
        Batch,
        Cancellation,
        Chunk,
        Erasure,
        Grant,
        KeyPage,
        KeySegment,
        MultipartUpload,
        RefusedChunk,
        Reissue,
        RejectionCount,
        UnindexedChunk,
        UploadStart,
    )
    from models.proofs import Checkpoint, CheckpointPublication, ItemEdge, Leaf, Prune, TreeHead
    from models.quotas import Quota, QuotaOverride, Reservation, Usage
    from models.revocations import Denial, EndedSessions, Revocation
    from models.schema import Base
    from models.tenants import (
        Bucket,
        ConfigChange,
        ConfigRevisionCounter,
        Policy,
        Tenant,
        TenantIdentity,
        TenantKey,
        WebhookEndpoint,
    )
    from models.uses import EndedSlot, LogImport, Settlement, StoredObject, Use

__all__ = [
    "Annotation",
    "Base",
    "Batch",
    "Bucket",
    "Cancellation",
    "Checkpoint",
    "CheckpointPublication",
    "Chunk",
    "ConfigChange",
    "ConfigRevisionCounter",
    "Delivery",
    "Denial",
    "EndedSessions",
    "EndedSlot",
    "EndpointCircuit",
    "Erasure",
    "Grant",
    "ItemEdge",
    "KeyPage",
    "KeySegment",
    "Leaf",
    "LogImport",
    "Manifest",
    "MultipartUpload",
    "Policy",
    "Prune",
    "Quota",
    "QuotaOverride",
    "RefusedChunk",
    "Reissue",
    "RejectionCount",
    "Reservation",
    "Revocation",
    "Settlement",
    "StoredObject",
    "Tenant",
    "TenantIdentity",
    "TenantKey",
    "TreeHead",
    "UnindexedChunk",
    "UploadStart",
    "Usage",
    "Use",
    "WebhookEndpoint",
]

_NAMES = {
    "deliveries": ("Delivery", "EndpointCircuit", "Manifest"),
    "grants": (
        "Annotation",
        "Batch",
        "Cancellation",
        "Chunk",
        "Erasure",
        "Grant",
        "KeyPage",
        "KeySegment",
        "MultipartUpload",
        "RefusedChunk",
        "Reissue",
        "RejectionCount",
        "UnindexedChunk",
        "UploadStart",
    ),
    "proofs": ("Checkpoint", "CheckpointPublication", "ItemEdge", "Leaf", "Prune", "TreeHead"),
    "quotas": ("Quota", "QuotaOverride", "Reservation", "Usage"),
    "revocations": ("Denial", "EndedSessions", "Revocation"),
    "schema": ("Base",),
    "tenants": (
        "Bucket",
        "ConfigChange",
        "ConfigRevisionCounter",
        "Policy",
        "Tenant",
        "TenantIdentity",
        "TenantKey",
        "WebhookEndpoint",
    ),
    "uses": ("EndedSlot", "LogImport", "Settlement", "StoredObject", "Use"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Import tables on first use: a command that reads one does not wait for the others. Base comes
    # from the module that imports them all.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
