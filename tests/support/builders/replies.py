"""Replies as JSON values, one of each form, and what a later service may make of them."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

BATCH = "0199a000-0000-7000-8000-000000000000"
QUOTA = {
    "metric": "grants",
    "window": "day",
    "limit": 100,
    "used": 90,
    "asked": 20,
    "resets_at": "2026-11-25T00:00:00Z",
}
REFUSAL = {"code": "quota_exceeded", "field": "total", "message": "over", "quota": QUOTA}
GRANT = {
    "id": f"{BATCH}.0",
    "key": "acme/a",
    "method": "POST",
    "url": "https://s3cret.example/",
    "fields": {"policy": "e30="},
    "headers": {"content-type": "x/y"},
    "expires_at": "2026-11-24T12:00:00Z",
    "limited_by": "request",
    "part": 1,
    "multipart": {
        "upload_id": "u",
        "part_size": 5,
        "part_count": 1,
        "abort_url": "https://s3cret.example/abort",
    },
}
ITEM_REFUSAL = {"code": "key_empty", "field": "key", "message": "no", "key": "", "limit": ["a"]}
MANIFEST = {"key": "m", "state": "written", "bytes": 5, "sha256": "00", "issued": 1}
LIMITS = dict.fromkeys(
    (
        *("max_batch_items", "max_chunk_items", "default_chunk_items", "max_interactive_items"),
        *("max_frame_bytes", "max_message_bytes", "max_message_age", "max_clock_skew"),
        *("max_expires_in", "max_object_bytes", "max_multipart_bytes", "min_part_bytes"),
        "max_parts",
    ),
    7,
)


def service_description(tenant: str) -> dict[str, Any]:
    """Return the description of a service for a tenant."""
    return {
        "status": "described",
        "tenant": tenant,
        "release": "0.1.0",
        "versions": [1],
        "asks": ["grants"],
        "kinds": ["download"],
        "limits": LIMITS,
    }


_CHUNK = {"batch": BATCH, "chunk": 0}
_BATCH = {"batch": BATCH, "kind": "upload", "bucket": "demo", "total": 5}
_ITEM_STATE = {
    "item": 3,
    "state": "mismatched",
    "key": "acme/a",
    "expires_at": "2026-11-24T12:00:00Z",
    "uses": 1,
    "size": 5,
    "etag": "e",
    "version": "v",
    "checksum": "crc32:AAAAAA==",
    "content_type": "text/html",
    "stored_at": "2026-11-24T11:00:00Z",
    "problem": "size: 5 bytes, granted 6",
}
_COUNTS = {"chunk_size": 5, "decided": 1, "issued": 1, "refused": 0}
_RULE = {"rule": "total", "found": "5", "refusal": REFUSAL}
REPLIES: dict[str, dict[str, Any]] = {
    "grants": {**_CHUNK, "status": "issued", "items": [GRANT, ITEM_REFUSAL], "quotas": [QUOTA]},
    "a manifest's counts": {**_CHUNK, "status": "issued", "issued": 1, "refused": 2},
    "a refusal": {**_CHUNK, "status": "refused", "refusal": REFUSAL},
    "a usage": {"status": "reported", "tenant": "acme", "quotas": [QUOTA]},
    "a cancellation": {"status": "cancelled", "batch": BATCH, "issued": 1, "released": 2},
    "an explanation": {"status": "explained", "decision": "refuse", "rules": [_RULE]},
    "a batch's state": _BATCH
    | _COUNTS
    | {"status": "found", "refusal": REFUSAL, "manifest": MANIFEST},
    "states of items": {**_BATCH, "status": "states", "items": [_ITEM_STATE]},
    "counted states": {**_BATCH, "status": "states", "counts": {"used": 2, "open": 3}},
    "a description": service_description("acme"),
}
OPEN_FIELDS = frozenset(
    {"code", "metric", "window", "method", "limited_by", "decision", "state", "kind"}
)
_FREE_OBJECTS = frozenset({"counts", "fields", "headers"})  # with names chosen by the service
_NEW_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=5),
    st.lists(st.booleans(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=1),
)
_NEW_NAMES = st.integers(0, 99).map("x_{}".format)


def objects(value: Any, name: str = "") -> Iterator[dict[str, Any]]:
    """Yield every object of a reply whose fields are those of the wire."""
    if isinstance(value, list):
        for entry in value:
            yield from objects(entry)
    if isinstance(value, dict) and name not in _FREE_OBJECTS:
        yield value
        for field, entry in value.items():
            yield from objects(entry, field)


@st.composite
def grown_replies(draw: Callable[[Any], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw a reply, and the same one with unknown fields at any depth."""
    reply = draw(st.sampled_from(list(REPLIES.values())))
    grown = json.loads(json.dumps(reply))
    for entry in list(objects(grown)):
        entry.update(draw(st.dictionaries(_NEW_NAMES, _NEW_VALUES, max_size=2)))
    return reply, grown


@st.composite
def renamed_replies(draw: Callable[[Any], Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Draw a reply with an unknown value in each open list, and these values by field."""
    reply = json.loads(json.dumps(draw(st.sampled_from(list(REPLIES.values())))))
    suffix = draw(st.text(max_size=5))
    values = {name: f"later {name} {suffix}" for name in OPEN_FIELDS}
    for entry in objects(reply):
        entry.update({name: values[name] for name in OPEN_FIELDS & entry.keys()})
    return reply, values
