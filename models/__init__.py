"""The tables, grouped by topic, and the migrations that create them."""

from models.base import Base
from models.deliveries import (
    Delivery,
    DeliveryAttempt,
    EndpointHour,
    EndpointState,
    Manifest,
    WebhookListener,
)
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
from models.probes import Probe
from models.proofs import Checkpoint, CheckpointPublication, ItemEdge, Leaf, Prune, TreeHead
from models.quotas import Quota, QuotaOverride, Reservation, Usage
from models.revocations import Denial, EndedSessions, Revocation
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
