"""Bundles: several requests for grants in one message. Wire version 1."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from valetkey.wire.terms import Name, WireModel

MAX_BUNDLE_MESSAGES = 64  # messages in one bundle
MAX_BUNDLED_ITEMS = 16  # items in each of them
BUNDLE_TASK_PREFIX = "bundle."  # of the task ids of bundles, which name no batch
BUNDLED_KINDS = ("download", "upload", "put")  # the others wait for storage, and others with them


class BundleMessage(WireModel):
    """Several requests for grants, each decided as if it were sent alone. Returns a BundleReply.

    messages: at most 64 ChunkMessages of this tenant. Each has a whole batch of at most 16
    downloads, uploads or puts, and no manifest.
    """

    v: Literal[1] = 1
    ask: Literal["bundle"]
    tenant: Name
    messages: Annotated[list[Any], Field(min_length=1, max_length=MAX_BUNDLE_MESSAGES)]


def unbundled_field(body: Mapping[str, Any]) -> str | None:
    """Return the field of a valid message because of which it must be sent alone, or None."""
    if body.get("ask", "grants") != "grants" or "items" not in body:
        return "ask"
    if not len(body["items"]) == body["total"] <= MAX_BUNDLED_ITEMS:
        return "items"
    if body.get("manifest") is not None:
        return "manifest"
    return None if body["grant"]["kind"] in BUNDLED_KINDS else "grant.kind"
