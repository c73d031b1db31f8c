"""The description of the service: the versions, kinds and limits that it has. Wire version 1."""

from collections.abc import Sequence
from typing import Literal

from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import ReplyModel


class ServiceLimits(ReplyModel):
    """The limits of the service; a tenant's policy and the provider may set lower ones.

    max_batch_items, max_chunk_items: items in a batch, and in one message of it.
    default_chunk_items: chunk_size of a message that has none.
    max_interactive_items: items of a batch that is sent to the queue `valetkey`.
    max_frame_bytes: bytes of a Celery message with its envelope.
    max_message_bytes: bytes of a signed message before base64.
    max_message_age, max_clock_skew: seconds between a message's `iat` and the service's clock.
    max_expires_in: seconds of a grant's lifetime.
    max_object_bytes, max_multipart_bytes: bytes of an object in one request, and in parts.
    min_part_bytes, max_parts: bytes of each part except the last, and parts of an upload.
    """

    max_batch_items: int
    max_chunk_items: int
    default_chunk_items: int
    max_interactive_items: int
    max_frame_bytes: int
    max_message_bytes: int
    max_message_age: int
    max_clock_skew: int
    max_expires_in: int
    max_object_bytes: int
    max_multipart_bytes: int
    min_part_bytes: int
    max_parts: int


class ServiceInfo(ReplyModel):
    """The reply to a ServiceMessage: what the service reads and supports.

    tenant: the tenant that asked.
    release: the service's release.
    versions: the wire versions that it reads, as in the field `v` of a message.
    asks: the values of the field `ask`; a message without it has `grants`.
    kinds: the kinds of grant. The tenant's policy may allow fewer.
    """

    status: Literal["described"] = "described"
    tenant: str
    release: str
    versions: list[int]
    asks: list[str]
    kinds: list[str]
    limits: ServiceLimits

    def batch_refusal(
        self, version: int, kind: str, chunk_items: int, batch_items: int
    ) -> Refusal | None:
        """Return the refusal of a batch that this service cannot read, or None if it can."""
        limits = self.limits
        if version not in self.versions:
            text = f"the service does not read version {version} of the messages"
            versions = [str(number) for number in self.versions]
            return self._refuse(Code.VERSION_UNKNOWN, "v", text, versions)
        if kind not in self.kinds:
            text = f"the service has no grants of the kind {kind}"
            return self._refuse(Code.KIND_NOT_ALLOWED, "grant.kind", text, self.kinds)
        if chunk_items > limits.max_chunk_items:
            text = f"the service does not read messages of {chunk_items:,} items"
            return self._refuse(Code.CHUNK_INVALID, "chunk_size", text, limits.max_chunk_items)
        if batch_items > limits.max_batch_items:
            text = f"the service does not read batches of {batch_items:,} items"
            return self._refuse(Code.BATCH_TOO_LARGE, "total", text, limits.max_batch_items)
        return None

    def _refuse(self, code: Code, field: str, message: str, limit: int | Sequence[str]) -> Refusal:
        limit = limit if isinstance(limit, int) else list(limit)
        text = f"{message}: it is release {self.release}"
        return Refusal(code=code, field=field, message=text, limit=limit)
