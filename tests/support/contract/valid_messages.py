"""A valid request of each kind and each ask, with all of its fields, and ways to break them."""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.support.builders.messages import batch_id

# Values of every type, and beyond every limit that a field may have. 1.0 and texts that end in a
# line feed are left out: see the tests of what a schema cannot express.
VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 1.5, 1_001, 10_001, 604_801, 1_000_001, 5 * 1024**4 + 1),
    *("", "x", "a\x00b", "A" * 201, "A" * 2_049, ["x"], {}, {"x": "y"}, {"x": "y" * 2_049}),
)

STORAGE_TERMS: dict[str, Any] = {
    "content_type": "image/png",
    "acl": "public-read",
    "metadata": {"title": "a"},
    "tags": {"team": "a"},
    "storage_class": "STANDARD_IA",
    "encryption": {"algorithm": "aws:kms", "key": "arn:aws:kms:eu-central-1:111122223333:key/1"},
}
TERMS: dict[str, dict[str, Any]] = {
    "download": {
        "method": "HEAD",
        "filename": "a.pdf",
        "content_type": "application/pdf",
        "inline": True,
        "cache_control": "no-store",
        "content_language": "de",
        "content_encoding": "gzip",
        "expires": "Tue, 24 Nov 2026 12:00:00 GMT",
        "check_owner": True,
    },
    "upload": STORAGE_TERMS
    | {
        "max_size": 500_000,
        "min_size": 0,
        "success_status": 201,
        "success_redirect": "https://example.com/done",
    },
    "put": STORAGE_TERMS | {"max_size": 500_000, "overwrite": True, "check_owner": False},
    "multipart": STORAGE_TERMS | {"max_size": 5 * 1024**4, "part_size": 5 * 1024**2},
    "parts": {"of": "0199a000-0000-7000-8000-000000000000.0"},
}
ITEMS: dict[str, dict[str, Any]] = {
    "download": {"filename": "b.pdf", "version_id": "abc"},
    "upload": {"size": 5, "checksum": {"algorithm": "crc32", "value": "AAAAAA=="}},
    "put": {"size": 5, "checksum": None},
    "multipart": {"size": 5 * 1024**4},
    "parts": {"part": 10_000},
}


class Mutation(NamedTuple):
    """A changed message, and the path and new value of the change; "absent" for a removed field."""

    path: str
    value: Any
    message: dict[str, Any]


def valid_messages() -> dict[str, dict[str, Any]]:
    """Return a valid message of each kind and each ask, by name."""
    messages = {kind: _chunk_message(kind) for kind in TERMS}
    messages["explain"] = _chunk_message("download") | {"ask": "explain"}
    messages["usage"] = {"v": 1, "ask": "usage", "tenant": "acme"}
    about_batch = {"v": 1, "tenant": "acme", "batch": batch_id()}
    messages["batch"] = about_batch | {"ask": "batch", "chunk": 3}
    messages["status"] = about_batch | {"ask": "status", "items": [0, 9], "probe": True}
    messages["reissue"] = about_batch | {"ask": "reissue", "of": f"{batch_id()}.7"}
    messages["reissue"] |= {"requested_by": "ann", "reason": "a", "recipient": "b"}
    messages["reissue"]["expires_in"] = 60
    messages["cancel"] = about_batch | {"ask": "cancel", "requested_by": "ann", "reason": "a b"}
    return messages


def _chunk_message(kind: str) -> dict[str, Any]:
    terms = {"kind": kind, "bucket": "demo", "expires_in": 600, "min_expires_in": 60}
    return {
        "v": 1,
        "ask": "grants",
        "tenant": "acme",
        "batch": batch_id(),
        "requested_by": "billing",
        "reason": "statements",
        "grant": terms | TERMS[kind],
        "total": 3,
        "chunk_size": 2,
        "chunk": 1,
        "items": [{"key": "acme/a"} | ITEMS[kind]],
        "callback": "hook",
        "notify": ["upload.stored", "upload.unused"],
        "deadline": "2026-11-24T12:00:00+01:00",
        "manifest": "acme/manifest.gz",
    }


def mutations(message: dict[str, Any]) -> Iterator[Mutation]:
    """Yield the message with each of its fields removed, replaced by other values, or added to.

    The fields that all kinds of grant share are changed in a download only, to save time.
    """
    is_other_kind = message.get("grant", {}).get("kind") not in {None, "download"}
    for path in _paths(message):
        if is_other_kind and path[0] not in {"grant", "items"}:
            continue
        for value in (*VALUES, "absent"):
            changed = copy.deepcopy(message)
            *parents, last = path
            target: Any = changed
            for step in parents:
                target = target[step]
            if value == "absent":
                target.pop(last, None) if isinstance(target, dict) else target.pop(last)
            else:
                target[last] = value
            yield Mutation(".".join(map(str, path)), value, changed)


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all members and elements, and of one unknown member in each object."""
    steps = [*value, "surprise"] if isinstance(value, dict) else range(len(value))
    for step in steps:
        yield (step,)
        child = None if step == "surprise" else value[step]
        if isinstance(child, dict | list):
            yield from ((step, *rest) for rest in _paths(child))
