"""Describes the service to a producer: what this release reads, and its limits."""

from typing import get_args

from valetkey.crypto.jose import MAX_MESSAGE_BYTES
from valetkey.wire import messages, terms
from valetkey.wire.service import ServiceInfo, ServiceLimits
from worker.broker.frames import MAX_FRAME_BYTES
from worker.core.auth.authenticate import MAX_CLOCK_SKEW, MAX_MESSAGE_AGE
from worker.core.kinds.registry import KINDS

_LIMITS = ServiceLimits(
    max_batch_items=messages.MAX_BATCH_ITEMS,
    max_chunk_items=messages.MAX_CHUNK_ITEMS,
    default_chunk_items=messages.DEFAULT_CHUNK_ITEMS,
    max_interactive_items=messages.MAX_INTERACTIVE_ITEMS,
    max_frame_bytes=MAX_FRAME_BYTES,
    max_message_bytes=MAX_MESSAGE_BYTES,
    max_message_age=MAX_MESSAGE_AGE,
    max_clock_skew=MAX_CLOCK_SKEW,
    max_expires_in=terms.MAX_EXPIRES_IN,
    max_object_bytes=terms.MAX_OBJECT_BYTES,
    max_multipart_bytes=terms.MAX_MULTIPART_BYTES,
    min_part_bytes=terms.MIN_PART_BYTES,
    max_parts=terms.MAX_PARTS,
)


def describe_service(tenant_name: str) -> ServiceInfo:
    """Return the description of this release. It charges nothing and reads no table."""
    return ServiceInfo(
        tenant=tenant_name,
        release=messages.RELEASE,
        versions=[messages.VERSION],
        asks=list(get_args(messages.Ask)),
        kinds=list(KINDS),
        limits=_LIMITS,
    )
