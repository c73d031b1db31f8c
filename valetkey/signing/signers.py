"""Signs the grants of each kind: from terms and items to grants as JSON values."""

from collections.abc import Callable, Mapping
from typing import Any

from valetkey.signing.response_headers import content_disposition
from valetkey.signing.signing_context import (
    GRANT_ID_HEADER,
    ItemSigner,
    SignedGrant,
    SigningContext,
    StartedUpload,
    checksum_form_fields,
    checksum_header,
    common_form_fields,
    common_put_headers,
    file_conditions,
)
from valetkey.signing.sigv4 import FormSigner, signature_digest
from valetkey.wire.messages import Item
from valetkey.wire.terms import Download, Kind, Multipart, Parts, Put, Upload

DEFAULT_CONTENT_TYPE = "application/octet-stream"


def _make_download_signer(terms: Download, context: SigningContext) -> ItemSigner:
    headers = context.owner_headers if terms.check_owner else {}
    common = context.common_fields(terms.method, headers)
    overrides = {
        "response-content-disposition": content_disposition(terms.filename, inline=terms.inline),
        "response-content-type": terms.content_type or DEFAULT_CONTENT_TYPE,
        "response-cache-control": terms.cache_control,
        "response-content-language": terms.content_language,
        "response-content-encoding": terms.content_encoding,
        "response-expires": terms.expires,
    }
    is_plain = terms.plain
    query = {n: value for n, value in overrides.items() if value is not None and not is_plain}
    urls = context.signer_for(terms.method, query=query, headers=headers)
    sign_url = urls.with_item_parameter("x-grant-id")

    def sign(grant_id: str, item: Item, _: StartedUpload) -> SignedGrant:
        if item.version_id is None and item.filename is None and not is_plain:
            url, signature = sign_url(item.key, grant_id)
        else:
            signed = urls.sign(item.key, _item_query(grant_id, item, terms))
            url, signature = signed.url, signed.signature
        grant = {"id": grant_id, "key": item.key, "url": url, **common}
        return grant, signature_digest(signature)

    return sign


def _item_query(grant_id: str, item: Item, terms: Download) -> dict[str, str]:
    query = {} if terms.plain else {"x-grant-id": grant_id}
    if item.version_id is not None:
        query["versionId"] = item.version_id
    if item.filename is not None:
        disposition = content_disposition(item.filename, inline=terms.inline)
        query["response-content-disposition"] = disposition
    return query


def _make_form_signer(terms: Upload, context: SigningContext) -> ItemSigner:
    forms = FormSigner(
        context.credentials,
        context.target,
        bucket=context.bucket,
        issued_at=context.validity.issued_at,
        expires_in=context.validity.expires_in,
        fields=common_form_fields(terms),
        conditions=file_conditions(terms),
    )
    common = context.common_fields("POST")

    def sign(grant_id: str, item: Item, _: StartedUpload) -> SignedGrant:
        item_fields = {**checksum_form_fields(item.checksum), GRANT_ID_HEADER: grant_id}
        form = forms.sign(item.key, item_fields)
        grant = {"id": grant_id, "key": item.key, "url": form.url, "fields": form.fields, **common}
        return grant, signature_digest(form.signature)

    return sign


def _make_put_signer(terms: Put, context: SigningContext) -> ItemSigner:
    headers = common_put_headers(terms)
    if not terms.overwrite:
        headers["if-none-match"] = "*"
    if terms.check_owner:
        headers |= context.owner_headers
    urls = context.signer_for("PUT", headers=headers)
    common = context.common_fields("PUT")

    def sign(grant_id: str, item: Item, _: StartedUpload) -> SignedGrant:
        item_headers = {
            "content-length": str(item.size),
            **checksum_header(item.checksum),
            GRANT_ID_HEADER: grant_id,
        }
        signed = urls.sign(item.key, {"x-grant-id": grant_id}, item_headers)
        grant = {
            "id": grant_id,
            "key": item.key,
            "url": signed.url,
            "headers": headers | item_headers,
            **common,
        }
        return grant, signature_digest(signed.signature)

    return sign


def _make_multipart_signer(_: Multipart, context: SigningContext) -> ItemSigner:
    complete_urls, abort_urls = context.signer_for("POST"), context.signer_for("DELETE")
    common = context.common_fields("POST")

    def sign(grant_id: str, item: Item, upload: StartedUpload) -> SignedGrant:
        query = {"uploadId": upload.upload_id, "x-grant-id": grant_id}
        complete = complete_urls.sign(item.key, query)
        multipart = {
            "upload_id": upload.upload_id,
            "part_size": upload.plan.part_size,
            "part_count": upload.plan.part_count,
            "abort_url": abort_urls.sign(item.key, query).url,
        }
        grant = {"id": grant_id, "key": item.key, "url": complete.url, "multipart": multipart}
        return grant | common, signature_digest(complete.signature)

    return sign


def _make_parts_signer(_: Parts, context: SigningContext) -> ItemSigner:
    urls = context.signer_for("PUT")
    common = context.common_fields("PUT")

    def sign(grant_id: str, item: Item, upload: StartedUpload) -> SignedGrant:
        part = item.part or 1
        query = {"partNumber": str(part), "uploadId": upload.upload_id, "x-grant-id": grant_id}
        headers = {"content-length": str(upload.plan.part_length(part))}
        signed = urls.sign(item.key, query, headers)
        grant = {"id": grant_id, "key": item.key, "part": part, "url": signed.url}
        return grant | {"headers": headers} | common, signature_digest(signed.signature)

    return sign


SIGNERS: Mapping[Kind, Callable[[Any, SigningContext], ItemSigner]] = {
    "download": _make_download_signer,
    "upload": _make_form_signer,
    "put": _make_put_signer,
    "multipart": _make_multipart_signer,
    "parts": _make_parts_signer,
}
"""Prepare to sign the items of a chunk, by the kind of its terms."""
