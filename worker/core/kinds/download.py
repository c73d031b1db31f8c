"""The kind `download`: a presigned GET or HEAD."""

from collections.abc import Collection, Mapping
from typing import Any

from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Download
from worker.core.kinds.content_types import check_content_type
from worker.core.kinds.item_checks import check_filename, check_version_id, refuse_filename
from worker.core.kinds.rules import (
    OWNER_RULE,
    PolicyContext,
    Rule,
    make_field_rule,
    make_kind_rule,
    refuse,
)
from worker.core.kinds.spec import GrantKind
from worker.core.quotas.cost import Cost
from worker.core.signing.context import ItemSigner, SignedGrant, SigningContext
from worker.core.signing.digests import signature_digest
from worker.core.signing.disposition import content_disposition
from worker.core.signing.multipart_plan import StartedUpload
from worker.core.signing.response_headers import GRAMMARS
from worker.core.signing.urls import SupportsUrlSigning
from worker.core.tenants.config import Policy

DEFAULT_CONTENT_TYPE = "application/octet-stream"
_PLAIN_SETS_NO_HEADER = "a plain link sets no response header: remove this or plain"


def _check_filename(terms: Download, _: Policy) -> Refusal | None:
    return None if terms.filename is None else refuse_filename(terms.filename, "grant.filename")


def _check_inline(terms: Download, policy: Policy) -> Refusal | None:
    if not terms.inline or terms.content_type in policy.inline:
        return None
    text = "the policy allows only these content types to be shown instead of saved"
    return refuse(Code.INLINE_NOT_ALLOWED, "grant.inline", text, list(policy.inline))


def _check_plain(terms: Download, policy: Policy) -> Refusal | None:
    if not terms.plain:
        return None
    if not policy.plain:
        text = "the tenant's policy does not allow links without response headers and grant id"
        return refuse(Code.PLAIN_NOT_ALLOWED, "grant.plain", text)
    for name in ("filename", "content_type", "inline", *GRAMMARS):
        if getattr(terms, name) not in {None, False}:
            return refuse(Code.OVERRIDE_NOT_ALLOWED, f"grant.{name}", _PLAIN_SETS_NO_HEADER)
    return None


def _check_item_filename(item: Item, terms: Download, field: str) -> Refusal | None:
    if terms.plain:
        text = _PLAIN_SETS_NO_HEADER
        return Refusal(code=Code.OVERRIDE_NOT_ALLOWED, field=field, message=text)
    return check_filename(item, terms, field)


def _override_rule(name: str) -> Rule[PolicyContext]:
    grammar = GRAMMARS[name]

    def check(terms: Download, policy: Policy) -> Refusal | None:
        value = getattr(terms, name)
        if value is None:
            return None
        if name not in policy.overrides:
            text = "the tenant's policy does not allow this response header to be set"
            return refuse(Code.OVERRIDE_NOT_ALLOWED, f"grant.{name}", text, list(policy.overrides))
        if not grammar.is_valid(value):
            text = f"the value of this response header is {grammar.description}"
            limit = list(grammar.values) or None
            return refuse(Code.OVERRIDE_NOT_ALLOWED, f"grant.{name}", text, limit)
        return None

    return make_field_rule(name, check)


def _make_signer(terms: Download, context: SigningContext) -> ItemSigner:
    headers = context.owner_headers if terms.check_owner else {}
    common = context.common_fields(terms.method, headers)
    if terms.plain:
        return _plain_signer(context.signer_for(terms.method, headers=headers), common)
    overrides = {
        "response-content-disposition": content_disposition(terms.filename, inline=terms.inline),
        "response-content-type": terms.content_type or DEFAULT_CONTENT_TYPE,
        "response-cache-control": terms.cache_control,
        "response-content-language": terms.content_language,
        "response-content-encoding": terms.content_encoding,
        "response-expires": terms.expires,
    }
    query = {name: value for name, value in overrides.items() if value is not None}
    urls = context.signer_for(terms.method, query=query, headers=headers)
    sign_url = urls.with_item_parameter("x-grant-id")

    def sign(grant_id: str, item: Item, _: StartedUpload) -> SignedGrant:
        if item.version_id is None and item.filename is None:
            url, signature = sign_url(item.key, grant_id)
        else:
            signed = urls.sign(item.key, _item_query(grant_id, item, terms))
            url, signature = signed.url, signed.signature
        grant = {"id": grant_id, "key": item.key, "url": url, **common}
        return grant, signature_digest(signature)

    return sign


def _plain_signer(urls: SupportsUrlSigning, common: Mapping[str, Any]) -> ItemSigner:
    def sign(grant_id: str, item: Item, _: StartedUpload) -> SignedGrant:
        query = {} if item.version_id is None else {"versionId": item.version_id}
        signed = urls.sign(item.key, query)
        grant = {"id": grant_id, "key": item.key, "url": signed.url, **common}
        return grant, signature_digest(signed.signature)

    return sign


def _item_query(grant_id: str, item: Item, terms: Download) -> dict[str, str]:
    query = {"x-grant-id": grant_id}
    if item.version_id is not None:
        query = {"versionId": item.version_id, **query}
    if item.filename is not None:
        disposition = content_disposition(item.filename, inline=terms.inline)
        query = {"response-content-disposition": disposition, **query}
    return query


def _issued_cost(_: Download, items: Collection[Item]) -> Cost:
    return Cost(grants=len(items), download_grants=len(items))


DOWNLOAD = GrantKind(
    terms_class=Download,
    rules=(
        make_kind_rule("download"),
        OWNER_RULE,
        make_field_rule("plain", _check_plain),
        make_field_rule("filename", _check_filename),
        make_field_rule("content_type", check_content_type),
        make_field_rule("inline", _check_inline),
        *map(_override_rule, GRAMMARS),
    ),
    reserved_cost=lambda _, count: Cost(grants=count, download_grants=count),
    issued_cost=_issued_cost,
    make_signer=_make_signer,
    s3_actions=frozenset({"s3:GetObject", "s3:GetObjectVersion"}),
    item_checks={"filename": _check_item_filename, "version_id": check_version_id},
    has_manifest=True,
)
