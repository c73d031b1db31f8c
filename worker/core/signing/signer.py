"""From terms to grants: what holds the limits in a URL or form, and what the producer gets."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from valetkey.wire.messages import Item
from valetkey.wire.terms import AnyTerms, Download, Multipart, Parts, Put, Upload
from worker.core.policy.decisions import StartedUpload, Validity
from worker.core.signing import storage_headers
from worker.core.signing.disposition import content_disposition
from worker.core.signing.forms import FormSigner
from worker.core.signing.sigv4 import Credentials, Target
from worker.core.signing.urls import SupportsUrlSigning, UrlSigner
from worker.core.tenants.config import Bucket

DEFAULT_CONTENT_TYPE = "application/octet-stream"

Signature = tuple[dict[str, Any], bytes]
"""A signed grant as JSON values, and the digest of its signature that may be stored."""


@dataclass(frozen=True, slots=True)
class SigningContext:
    """Where the grants of a chunk lead, and who signs them for how long.

    url_signer is UrlSigner, or what is called like it where boto3 signs in another way.
    """

    bucket: Bucket
    target: Target
    credentials: Credentials
    life: Validity
    url_signer: Callable[..., SupportsUrlSigning] = UrlSigner

    def urls(self, method: str, **common: Any) -> SupportsUrlSigning:
        """Prepare to sign URLs of one method."""
        return self.url_signer(
            self.credentials,
            self.target,
            method=method,
            issued_at=self.life.issued_at,
            expires_in=self.life.expires_in,
            **common,
        )


ItemSigner = Callable[[str, Item, StartedUpload], Signature]
"""Sign one item under its grant id; the multipart upload it belongs to goes third."""


def item_signer(terms: AnyTerms, place: SigningContext) -> ItemSigner:
    """Prepare to sign the items of one chunk."""
    match terms:
        case Download():
            return _downloads(terms, place)
        case Upload():
            return _uploads(terms, place)
        case Put():
            return _puts(terms, place)
        case Multipart():
            return _multiparts(place)
        case Parts():
            return _parts(place)


def _downloads(terms: Download, place: SigningContext) -> ItemSigner:
    query = {
        "response-content-disposition": content_disposition(terms.filename, inline=terms.inline),
        "response-content-type": terms.content_type or DEFAULT_CONTENT_TYPE,
        "response-cache-control": terms.cache_control,
        "response-content-language": terms.content_language,
        "response-content-encoding": terms.content_encoding,
        "response-expires": terms.expires,
    }
    headers = _owner(place) if terms.check_owner else {}
    given = {name: value for name, value in query.items() if value is not None}
    urls = place.urls(terms.method, query=given, headers=headers)
    common = _common(terms.method, place.life, headers)
    by_id = urls.with_own("x-grant-id")

    def sign(grant_id: str, item: Item, _: StartedUpload) -> Signature:
        if item.version_id is None and item.filename is None:
            url, signature = by_id(item.key, grant_id)
        else:
            signed = urls.sign(item.key, _own(grant_id, item, terms))
            url, signature = signed.url, signed.signature
        return {"id": grant_id, "key": item.key, "url": url, **common}, _digest(signature)

    return sign


def _own(grant_id: str, item: Item, terms: Download) -> dict[str, str]:
    own = {"x-grant-id": grant_id}
    if item.version_id is not None:
        own = {"versionId": item.version_id, **own}
    if item.filename is not None:
        named = content_disposition(item.filename, inline=terms.inline)
        own = {"response-content-disposition": named, **own}
    return own


def _uploads(terms: Upload, place: SigningContext) -> ItemSigner:
    forms = FormSigner(
        place.credentials,
        place.target,
        bucket=place.bucket.bucket,
        issued_at=place.life.issued_at,
        expires_in=place.life.expires_in,
        fields=storage_headers.form_fields(terms),
        conditions=storage_headers.form_conditions(terms),
    )
    common = _common("POST", place.life)

    def sign(grant_id: str, item: Item, _: StartedUpload) -> Signature:
        own = {
            **storage_headers.checksum_form_fields(item.checksum),
            storage_headers.GRANT_ID_HEADER: grant_id,
        }
        form = forms.sign(item.key, own)
        grant = {"id": grant_id, "key": item.key, "url": form.url, "fields": form.fields}
        return grant | common, _digest(form.signature)

    return sign


def _puts(terms: Put, place: SigningContext) -> ItemSigner:
    headers = storage_headers.put_headers(terms)
    if not terms.overwrite:
        headers["if-none-match"] = "*"
    if terms.check_owner:
        headers |= _owner(place)
    urls = place.urls("PUT", headers=headers)
    common = _common("PUT", place.life)

    def sign(grant_id: str, item: Item, _: StartedUpload) -> Signature:
        own = {"content-length": str(item.size), **storage_headers.checksum_header(item.checksum)}
        own[storage_headers.GRANT_ID_HEADER] = grant_id
        signed = urls.sign(item.key, {"x-grant-id": grant_id}, own)
        grant = {"id": grant_id, "key": item.key, "url": signed.url, "headers": headers | own}
        return grant | common, _digest(signed.signature)

    return sign


def _multiparts(place: SigningContext) -> ItemSigner:
    completing, aborting = place.urls("POST"), place.urls("DELETE")
    common = _common("POST", place.life)

    def sign(grant_id: str, item: Item, begun: StartedUpload) -> Signature:
        upload_id, plan = begun
        query = {"uploadId": upload_id, "x-grant-id": grant_id}
        complete = completing.sign(item.key, query)
        multipart = {
            "upload_id": upload_id,
            "part_size": plan.part_size,
            "part_count": plan.part_count,
            "abort_url": aborting.sign(item.key, query).url,
        }
        grant = {"id": grant_id, "key": item.key, "url": complete.url, "multipart": multipart}
        return grant | common, _digest(complete.signature)

    return sign


def _parts(place: SigningContext) -> ItemSigner:
    urls = place.urls("PUT")
    common = _common("PUT", place.life)

    def sign(grant_id: str, item: Item, begun: StartedUpload) -> Signature:
        upload_id, plan = begun
        part = item.part or 1
        query = {"partNumber": str(part), "uploadId": upload_id, "x-grant-id": grant_id}
        headers = {"content-length": str(plan.length(part))}
        signed = urls.sign(item.key, query, headers)
        grant = {"id": grant_id, "key": item.key, "part": part, "url": signed.url}
        return grant | {"headers": headers} | common, _digest(signed.signature)

    return sign


def _owner(place: SigningContext) -> dict[str, str]:
    return {"x-amz-expected-bucket-owner": place.bucket.owner or ""}


def _common(method: str, life: Validity, headers: dict[str, str] | None = None) -> dict[str, Any]:
    said = {
        "method": method,
        "expires_at": life.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "limited_by": life.limited_by,
    }
    return said | ({"headers": headers} if headers else {})


def _digest(signature: str) -> bytes:
    return sha256(signature.encode()).digest()
