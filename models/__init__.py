"""What is stored: one aggregate a file, and the migrations that make its tables."""

from models.base import Base
from models.deliveries import Delivery
from models.grants import Batch, Chunk, Grant, Reissue
from models.multiparts import Multipart
from models.quotas import Quota, Usage
from models.tenants import Bucket, Endpoint, Policy, Revision, Tenant

__all__ = [
    "Base",
    "Batch",
    "Bucket",
    "Chunk",
    "Delivery",
    "Endpoint",
    "Grant",
    "Multipart",
    "Policy",
    "Quota",
    "Reissue",
    "Revision",
    "Tenant",
    "Usage",
]
