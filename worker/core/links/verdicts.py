"""Compares a pasted grant with the audit log: genuine, altered, forged, or only named."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from worker.core.links.pasted_grant import PastedGrant
from worker.core.revocation.targets import RecordedRevocation

Verdict = Literal["genuine", "altered", "forged", "unproven", "named"]

_METHODS: dict[str, set[str]] = {
    "download": {"GET", "HEAD"},
    "upload": {"POST", "PUT"},
    "put": {"PUT"},
    "multipart": {"POST", "DELETE"},
    "parts": {"PUT"},
}
_ARN = "arn:"


@dataclass(frozen=True, slots=True)
class Signing:
    """One signing of a grant: at its issue, or again later with other credentials."""

    digest: bytes | None = field(repr=False)
    access_key: str | None
    signed_again_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditedGrant:
    """A grant of the audit log, with its bucket profile of today and the state of its upload.

    real_buckets are those that the profile has had; provider is None if it was removed. signings
    has the first one first. revocations are those that cover it, the oldest first.
    """

    tenant: str
    grant: str
    bucket: str
    key: str
    kind: str
    requested_by: str
    recipient: str | None
    reason: str | None
    signed_by: str | None
    issued_at: datetime
    expires_in: int
    limited_by: str
    code: str | None
    signings: tuple[Signing, ...]
    is_plain: bool
    real_buckets: frozenset[str]
    provider: str | None
    has_role: bool
    upload: str | None
    cancelled_at: datetime | None
    revocations: tuple[RecordedRevocation, ...] = ()

    @property
    def expires_at(self) -> datetime:
        """The moment from which storage refuses the grant."""
        return self.issued_at + timedelta(seconds=self.expires_in)


def matching_signing(pasted: PastedGrant, grant: AuditedGrant) -> Signing | None:
    """Return the signing that gave the pasted signature, or None."""
    return next((each for each in grant.signings if each.digest in pasted.digests), None)


def judge(pasted: PastedGrant, grant: AuditedGrant) -> tuple[Verdict, list[str]]:
    """Return the verdict, and the names of the parts that differ from the audit log."""
    signing = matching_signing(pasted, grant)
    if not pasted.digests:
        return "named", []
    if signing is not None:
        differences = list(_differences(pasted, grant, signing))
        return "altered" if differences else "genuine", differences
    # The link that aborts an upload is signed with the one that completes it, and has no digest.
    is_abort = grant.kind == "multipart" and pasted.has_upload_id and grant.code is None
    return "unproven" if is_abort else "forged", []


def _differences(pasted: PastedGrant, grant: AuditedGrant, signing: Signing) -> Iterator[str]:
    if pasted.name is None and not grant.is_plain:
        yield "the grant id is missing"
    if _differ(pasted.keys, grant.key) or not all(_is_path(p, grant) for p in pasted.paths):
        yield "key or bucket"
    elif not all(_is_host(host, grant, pasted.paths) for host in pasted.hosts):
        yield "bucket"
    if _differ(pasted.dates, grant.issued_at):
        yield "time of issue"
    if not all(_is_lifetime(text, grant, signing) for text in pasted.lifetimes):
        yield "expiry"
    if _differ(pasted.access_keys, signing.access_key):
        yield "access key"
    if not pasted.methods <= _METHODS.get(grant.kind, pasted.methods):
        yield "method"


def _differ(values: Collection[Any], expected: Any) -> bool:
    return bool(values) and set(values) != {expected}


def _is_path(path: str, grant: AuditedGrant) -> bool:
    if path == grant.key:
        return True
    bucket, _, key = path.partition("/")
    return key == grant.key and bucket in (grant.real_buckets or {bucket})


def _is_host(host: str, grant: AuditedGrant, paths: Collection[str]) -> bool:
    buckets = grant.real_buckets
    if not buckets or any(name.startswith(_ARN) for name in buckets) or grant.key not in paths:
        return True
    return host.startswith(tuple(f"{name}." for name in buckets))


def _is_lifetime(text: str, grant: AuditedGrant, signing: Signing) -> bool:
    if not (text.isascii() and text.isdecimal()):
        return False
    if signing.signed_again_at is not None:  # other credentials may have ended earlier
        return 0 < int(text) <= grant.expires_in
    return int(text) == grant.expires_in
