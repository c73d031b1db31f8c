"""From terms to grants: what holds the limits in a URL or form, and what the producer gets."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple

from valetkey.messages import Download, Upload
from worker.core.decisions import Life
from worker.core.disposition import attachment
from worker.core.forms import FormSigner, SignedForm
from worker.core.sigv4 import Credentials, Target
from worker.core.urls import Signed, UrlSigner

NEUTRAL = "application/octet-stream"


class Signature(NamedTuple):
    """A signed grant as JSON values, and the digest of its signature that may be stored."""

    grant: dict[str, Any]
    digest: bytes


Sign = Callable[[str, str, str | None], Signature]
"""Sign one item: its grant id, its key, and the file name it brings or None."""


def signer(
    terms: Download | Upload, bucket: str, target: Target, credentials: Credentials, life: Life
) -> Sign:
    """Prepare to sign the items of one chunk; bucket is the real one's name."""
    if isinstance(terms, Upload):
        return _uploads(terms, bucket, target, credentials, life)
    return _downloads(terms, target, credentials, life)


def _downloads(terms: Download, target: Target, credentials: Credentials, life: Life) -> Sign:
    urls = UrlSigner(
        credentials,
        target,
        method="GET",
        issued_at=life.issued_at,
        expires_in=life.expires_in,
        query={
            "response-content-disposition": attachment(terms.filename),
            "response-content-type": terms.content_type or NEUTRAL,
        },
    )
    common = _common("GET", life)

    def sign(grant_id: str, key: str, filename: str | None) -> Signature:
        query = {"x-grant-id": grant_id}
        if filename is not None:
            query = {"response-content-disposition": attachment(filename), **query}
        signed = urls.sign(key, query)
        return Signature({"id": grant_id, "key": key, "url": signed.url, **common}, _digest(signed))

    return sign


def _uploads(
    terms: Upload, bucket: str, target: Target, credentials: Credentials, life: Life
) -> Sign:
    metadata = {f"x-amz-meta-{name}": value for name, value in terms.metadata.items()}
    acl = {} if terms.acl is None else {"acl": terms.acl}
    forms = FormSigner(
        credentials,
        target,
        bucket=bucket,
        issued_at=life.issued_at,
        expires_in=life.expires_in,
        fields={"Content-Type": terms.content_type, **acl, **metadata},
        conditions=[["content-length-range", terms.min_size, terms.max_size]],
    )
    common = _common("POST", life)

    def sign(grant_id: str, key: str, _filename: str | None) -> Signature:
        form = forms.sign(key, {"x-amz-meta-grant-id": grant_id})
        grant = {"id": grant_id, "key": key, "url": form.url, "fields": form.fields, **common}
        return Signature(grant, _digest(form))

    return sign


def _common(method: str, life: Life) -> dict[str, str]:
    return {
        "method": method,
        "expires_at": life.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "limited_by": life.limited_by,
    }


def _digest(signed: Signed | SignedForm) -> bytes:
    return sha256(signed.signature.encode()).digest()
