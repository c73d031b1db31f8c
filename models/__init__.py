"""What is stored: one aggregate a file, and the migrations that make its tables."""

from models.base import Base
from models.changes import Change, Rejection
from models.deliveries import Delivery
from models.grants import Batch, Cancellation, Chunk, Grant, Reissue
from models.manifests import Manifest
from models.multiparts import Multipart
from models.quotas import Hold, Quota, Raise, Usage
from models.tenants import Bucket, Endpoint, Key, Policy, Revision, Tenant

__all__ = [
    "Base",
    "Batch",
    "Bucket",
    "Cancellation",
    "Change",
    "Chunk",
    "Delivery",
    "Endpoint",
    "Grant",
    "Hold",
    "Key",
    "Manifest",
    "Multipart",
    "Policy",
    "Quota",
    "Raise",
    "Reissue",
    "Rejection",
    "Revision",
    "Tenant",
    "Usage",
]
