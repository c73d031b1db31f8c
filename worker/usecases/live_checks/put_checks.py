"""Checks of PUTs: size, type, checksum, metadata, write-once, and the session that signs."""

from base64 import b64encode
from collections.abc import Callable, Mapping
from hashlib import sha256

from valetkey.wire.messages import Item
from valetkey.wire.terms import Checksum
from worker.core.kinds.storage_rules import STORED_METADATA_BYTES
from worker.net.storage_requests import StorageRequest
from worker.usecases.live_checks.check import LiveCheck, needs_role
from worker.usecases.live_checks.findings import Outcome
from worker.usecases.live_checks.probe import BODY, Probe, put_request

OTHER_BODY = BODY.swapcase()
"""As many other bytes."""

# A grant id is a UUID, a dot and an item's number, under the name grant-id.
_GRANT_ID_BYTES = len("grant-id") + 36 + len(".0")
_METADATA = {"padding": "x" * (STORED_METADATA_BYTES - _GRANT_ID_BYTES - len("padding"))}
# Twice the limit, so that it makes no difference what else storage counts.
_TOO_MUCH_METADATA = _METADATA | {"more": "x" * STORED_METADATA_BYTES}


def body_checksum() -> Checksum:
    """Return the SHA-256 of BODY."""
    return Checksum(algorithm="sha256", value=b64encode(sha256(BODY).digest()).decode())


def _put(probe: Probe) -> Outcome:
    key = probe.new_key()
    return probe.read_back(probe.send(put_request(probe.put(key))), key, BODY)


def _put_new(probe: Probe) -> Outcome:
    key = probe.new_key()
    return probe.read_back(probe.send(put_request(probe.put(key, overwrite=False))), key, BODY)


def _put_again(probe: Probe) -> Outcome:
    grant = probe.put(probe.new_key(), overwrite=False)
    probe.require("the first PUT", probe.send(put_request(grant)))
    return Outcome(probe.send(put_request(grant, OTHER_BODY)))


def _put_over_object(probe: Probe) -> Outcome:
    grant = probe.put(probe.store(), overwrite=False)
    headers = {name: value for name, value in grant.headers.items() if name != "if-none-match"}
    return Outcome(probe.send(StorageRequest("PUT", grant.url, headers, OTHER_BODY)))


def _put_with_checksum(probe: Probe) -> Outcome:
    key = probe.new_key()
    return probe.read_back(probe.send(put_request(probe.put(key, body_checksum()))), key, BODY)


def _put_other_bytes(probe: Probe) -> Outcome:
    grant = probe.put(probe.new_key(), body_checksum())
    return Outcome(probe.send(put_request(grant, OTHER_BODY)))


def _with_metadata(metadata: Mapping[str, str]) -> Callable[[Probe], Outcome]:
    """Send metadata that the service refuses: it keeps the bytes of the longest grant id free."""

    def act(probe: Probe) -> Outcome:
        item, terms = Item(key=probe.new_key(), size=len(BODY)), probe.put_terms(metadata=metadata)
        grant = probe.grants.sign_unchecked(probe.put_terms(), terms, item)
        return Outcome(probe.send(put_request(grant)))

    return act


def _put_outside_prefix(probe: Probe) -> Outcome:
    (prefix,) = probe.grants.prefixes
    item = Item(key=f"{prefix.removesuffix('/')}-outside.txt", size=len(BODY))
    grant = probe.grants.sign_unchecked(probe.put_terms(), probe.put_terms(), item)
    return Outcome(probe.send(put_request(grant)))


def _with_body(body: bytes) -> Callable[[Probe], Outcome]:
    def act(probe: Probe) -> Outcome:
        return Outcome(probe.send(put_request(probe.put(probe.new_key()), body)))

    return act


def _with_header(name: str, value: str) -> Callable[[Probe], Outcome]:
    def act(probe: Probe) -> Outcome:
        return Outcome(probe.send(put_request(probe.put(probe.new_key()), headers={name: value})))

    return act


def _put_copy(probe: Probe) -> Outcome:
    source = f"/{probe.grants.bucket.bucket}/{probe.store()}"
    grant = probe.put(probe.new_key())
    return Outcome(probe.send(put_request(grant, headers={"x-amz-copy-source": source})))


def _misuse(name: str, act: Callable[[Probe], Outcome], needs: str = "PUT") -> LiveCheck:
    return LiveCheck("put", name, is_misuse=True, act=act, needs=("put", needs))


PUT_CHECKS = (
    LiveCheck("put", "PUT", is_misuse=False, act=_put),
    LiveCheck("put", "PUT of a new object", is_misuse=False, act=_put_new),
    LiveCheck("put", "PUT with a SHA-256", is_misuse=False, act=_put_with_checksum),
    LiveCheck("put", "PUT with 2,048 bytes of metadata", False, _with_metadata(_METADATA)),
    _misuse("of a larger file", _with_body(BODY * 2)),
    _misuse("of a smaller file", _with_body(BODY[:-1])),
    _misuse("of another content type", _with_header("content-type", "text/html")),
    _misuse("of other bytes than its SHA-256", _put_other_bytes, "PUT with a SHA-256"),
    _misuse("over an object that exists", _put_again, "PUT of a new object"),
    _misuse("without If-None-Match", _put_over_object, "PUT of a new object"),
    _misuse("with metadata added", _with_header("x-amz-meta-added", "yes")),
    _misuse("with an ACL added", _with_header("x-amz-acl", "public-read")),
    _misuse("as a copy of another object", _put_copy),
    _misuse("with over 2,048 bytes of metadata", _with_metadata(_TOO_MUCH_METADATA)),
    LiveCheck(
        "session",
        "PUT outside of its prefix",
        is_misuse=True,
        act=_put_outside_prefix,
        needs=("put", "PUT"),
        condition=needs_role,
    ),
)
