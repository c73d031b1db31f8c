"""Client library for producers: messages, clients, a command line and webhook verification."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from valetkey.wire import RELEASE as __version__  # noqa: N811 - the name that Python expects

if TYPE_CHECKING:
    from valetkey.aio import AsyncClient
    from valetkey.client import Client
    from valetkey.errors import (
        BrokerUnreachable,
        Busy,
        Expired,
        NoAnswer,
        NotConfigured,
        NotStored,
        Refused,
        SealedForAnotherKey,
        ServiceUnavailable,
        StorageError,
        UnreadableReply,
        UnusableGrant,
        ValetkeyError,
    )
    from valetkey.handles import (
        AsyncBatchHandle,
        AsyncGrantHandle,
        AsyncMultipartHandle,
        BatchHandle,
        GrantHandle,
        MultipartHandle,
    )
    from valetkey.multipart_upload import MultipartUploader, StoredPart
    from valetkey.session import new_id
    from valetkey.waits import Manifest, StoredObject
    from valetkey.wire.messages import Item
    from valetkey.wire.refusals import Code, QuotaState, Refusal
    from valetkey.wire.replies import (
        Cancelled,
        Explanation,
        Grant,
        RuleVerdict,
        ServiceInfo,
        ServiceLimits,
        UseState,
        UseStates,
    )
    from valetkey.wire.terms import Checksum, Encryption

__all__ = [
    "AsyncBatchHandle", "AsyncClient", "AsyncGrantHandle", "AsyncMultipartHandle", "BatchHandle",
    "BrokerUnreachable", "Busy", "Cancelled", "Checksum", "Client", "Code", "Encryption", "Expired",
    "Explanation", "Grant", "GrantHandle", "Item", "Manifest", "MultipartHandle",
    "MultipartUploader", "NoAnswer", "NotConfigured", "NotStored", "QuotaState", "Refusal",
    "Refused", "RuleVerdict", "SealedForAnotherKey", "ServiceInfo", "ServiceLimits",
    "ServiceUnavailable", "StorageError", "StoredObject", "StoredPart", "UnreadableReply",
    "UnusableGrant", "UseState", "UseStates", "ValetkeyError", "__version__", "new_id",
]  # fmt: skip

# Those that load little before those that load Celery and Redis.
_MODULES = (
    "wire.terms", "wire.messages", "errors", "wire.replies", "waits", "session", "aio", "client",
    "multipart_upload",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    # Import modules on first use. The client loads Celery and Redis, the wire pydantic, and the
    # operator's command line needs neither for most of its commands.
    if name in __all__:
        for module in _MODULES:
            value = getattr(import_module(f"{__name__}.{module}"), name, None)
            if value is not None:
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
