"""Client library for producers: messages, clients, a command line and webhook verification."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from valetkey.errors import (
    BrokerUnreachable,
    NoAnswer,
    NotConfigured,
    Refused,
    SealedForAnotherKey,
    ServiceUnavailable,
    StorageError,
    UnreadableReply,
    UnusableGrant,
    ValetkeyError,
)
from valetkey.manifests import Manifest
from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, QuotaState, Refusal
from valetkey.wire.replies import Cancelled, Explanation, Grant, RuleVerdict
from valetkey.wire.service import ServiceInfo, ServiceLimits
from valetkey.wire.terms import Checksum, Encryption

if TYPE_CHECKING:
    from valetkey.aio import AsyncClient
    from valetkey.async_handles import AsyncBatchHandle, AsyncGrantHandle, AsyncMultipartHandle
    from valetkey.client import Client
    from valetkey.handles import BatchHandle, GrantHandle, MultipartHandle

__all__ = [
    "AsyncBatchHandle",
    "AsyncClient",
    "AsyncGrantHandle",
    "AsyncMultipartHandle",
    "BatchHandle",
    "BrokerUnreachable",
    "Cancelled",
    "Checksum",
    "Client",
    "Code",
    "Encryption",
    "Explanation",
    "Grant",
    "GrantHandle",
    "Item",
    "Manifest",
    "MultipartHandle",
    "NoAnswer",
    "NotConfigured",
    "QuotaState",
    "Refusal",
    "Refused",
    "RuleVerdict",
    "SealedForAnotherKey",
    "ServiceInfo",
    "ServiceLimits",
    "ServiceUnavailable",
    "StorageError",
    "UnreadableReply",
    "UnusableGrant",
    "ValetkeyError",
]

_CLIENT_MODULES = {
    "AsyncBatchHandle": "async_handles",
    "AsyncClient": "aio",
    "AsyncGrantHandle": "async_handles",
    "AsyncMultipartHandle": "async_handles",
    "BatchHandle": "handles",
    "Client": "client",
    "GrantHandle": "handles",
    "MultipartHandle": "handles",
}


def __getattr__(name: str) -> Any:
    # Import the client on first use: it loads Celery and Redis, which the wire does not need.
    if name not in _CLIENT_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_CLIENT_MODULES[name]}"), name)
