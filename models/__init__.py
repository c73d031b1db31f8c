"""The tables, grouped by topic, and the migrations that create them."""

from models.base import Base
from models.changes import ConfigChange, RejectionCount
from models.deliveries import Delivery, EndpointCircuit
from models.grants import Batch, Cancellation, Chunk, Grant, Reissue
from models.manifests import Manifest
from models.multiparts import MultipartUpload, UploadStart
from models.quotas import Quota, QuotaOverride, Reservation, Usage
from models.tenants import (
    Bucket,
    ConfigRevisionCounter,
    Policy,
    Tenant,
    TenantIdentity,
    TenantKey,
    WebhookEndpoint,
)
from models.trees import Checkpoint, Leaf, TreeHead

__all__ = [
    "Base",
    "Batch",
    "Bucket",
    "Cancellation",
    "Checkpoint",
    "Chunk",
    "ConfigChange",
    "ConfigRevisionCounter",
    "Delivery",
    "EndpointCircuit",
    "Grant",
    "Leaf",
    "Manifest",
    "MultipartUpload",
    "Policy",
    "Quota",
    "QuotaOverride",
    "Reissue",
    "RejectionCount",
    "Reservation",
    "Tenant",
    "TenantIdentity",
    "TenantKey",
    "TreeHead",
    "UploadStart",
    "Usage",
    "WebhookEndpoint",
]
