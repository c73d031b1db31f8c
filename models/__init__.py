"""The tables, grouped by topic, and the migrations that create them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.base import Base
    from models.changes import ConfigChange, RejectionCount
    from models.deliveries import Delivery, EndpointCircuit
    from models.grants import Batch, Cancellation, Chunk, Grant, RefusedChunk, Reissue
    from models.key_lookup import KeyPage, KeySegment, UnindexedChunk
    from models.manifests import Manifest
    from models.multiparts import MultipartUpload, UploadStart
    from models.prunes import ItemEdge, Prune
    from models.quotas import Quota, QuotaOverride, Reservation, Usage
    from models.revocations import Denial, EndedSessions, Revocation
    from models.tenants import (
        Bucket,
        ConfigRevisionCounter,
        Policy,
        Tenant,
        TenantIdentity,
        TenantKey,
        WebhookEndpoint,
    )
    from models.trees import Checkpoint, CheckpointPublication, Leaf, TreeHead
    from models.uses import EndedSlot, LogImport, Settlement, StoredObject, Use

__all__ = [
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

_MODULES = {
    "Base": "base",
    "Batch": "grants",
    "Bucket": "tenants",
    "Cancellation": "grants",
    "Checkpoint": "trees",
    "CheckpointPublication": "trees",
    "Chunk": "grants",
    "ConfigChange": "changes",
    "ConfigRevisionCounter": "tenants",
    "Delivery": "deliveries",
    "Denial": "revocations",
    "EndedSessions": "revocations",
    "EndedSlot": "uses",
    "EndpointCircuit": "deliveries",
    "Grant": "grants",
    "ItemEdge": "prunes",
    "KeyPage": "key_lookup",
    "KeySegment": "key_lookup",
    "Leaf": "trees",
    "LogImport": "uses",
    "Manifest": "manifests",
    "MultipartUpload": "multiparts",
    "Policy": "tenants",
    "Prune": "prunes",
    "Quota": "quotas",
    "QuotaOverride": "quotas",
    "RefusedChunk": "grants",
    "Reissue": "grants",
    "RejectionCount": "changes",
    "Reservation": "quotas",
    "Revocation": "revocations",
    "Settlement": "uses",
    "StoredObject": "uses",
    "Tenant": "tenants",
    "TenantIdentity": "tenants",
    "TenantKey": "tenants",
    "TreeHead": "trees",
    "UnindexedChunk": "key_lookup",
    "UploadStart": "multiparts",
    "Usage": "quotas",
    "Use": "uses",
    "WebhookEndpoint": "tenants",
}


def __getattr__(name: str) -> Any:
    # Import tables on first use: a command that reads one does not wait for the others. Base has
    # all of them in its metadata.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Base":
        for module in {*_MODULES.values(), "partial_indexes"}:
            import_module(f"{__name__}.{module}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
