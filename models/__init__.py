"""What is stored: one aggregate a file, and the migrations that make its tables."""

from models.base import Base
from models.changes import ConfigChange, Rejection
from models.deliveries import Delivery
from models.grants import Batch, Cancellation, Chunk, Grant, Reissue
from models.manifests import Manifest
from models.multiparts import Multipart
from models.quotas import Quota, QuotaOverride, Reservation, Usage
from models.tenants import Bucket, ConfigRevision, Endpoint, Policy, Tenant, TenantKey

__all__ = [
    "Base",
    "Batch",
    "Bucket",
    "Cancellation",
    "Chunk",
    "ConfigChange",
    "ConfigRevision",
    "Delivery",
    "Endpoint",
    "Grant",
    "Manifest",
    "Multipart",
    "Policy",
    "Quota",
    "QuotaOverride",
    "Reissue",
    "Rejection",
    "Reservation",
    "Tenant",
    "TenantKey",
    "Usage",
]
