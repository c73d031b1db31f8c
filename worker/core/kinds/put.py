"""The kind `put`: a presigned PUT of exactly one size."""

from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Put
from worker.core.kinds.content_types import check_content_type
from worker.core.kinds.item_checks import check_checksum_format, check_size
from worker.core.kinds.rules import (
    OWNER_RULE,
    make_field_rule,
    make_kind_rule,
    refuse,
)
from worker.core.kinds.spec import GrantKind, RequiredField
from worker.core.kinds.storage_rules import STORAGE_RULES, STORE_ACTIONS, exact_cost, reserved_cost
from worker.core.signing.context import ItemSigner, SignedGrant, SigningContext
from worker.core.signing.digests import signature_digest
from worker.core.signing.multipart_plan import StartedUpload
from worker.core.signing.storage_headers import GRANT_ID_HEADER, checksum_header, common_put_headers
from worker.core.tenants.config import Bucket, Policy


def _check_overwrite(terms: Put, policy: Policy) -> Refusal | None:
    if not terms.overwrite or policy.overwrite:
        return None
    text = "the tenant's policy does not allow a put to replace an object"
    return refuse(Code.OVERWRITE_NOT_ALLOWED, "grant.overwrite", text)


def _adapt_to_provider(terms: Put, bucket: Bucket, _: Policy) -> Put | Refusal:
    if terms.overwrite or bucket.conditional_writes:
        return terms
    text = "this storage replaces existing objects: only a put that may overwrite is possible"
    return refuse(Code.KIND_NOT_SUPPORTED, "grant.overwrite", text, "true")


def _make_signer(terms: Put, context: SigningContext) -> ItemSigner:
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


PUT = GrantKind(
    terms_class=Put,
    rules=(
        make_kind_rule("put"),
        OWNER_RULE,
        make_field_rule("content_type", check_content_type),
        *STORAGE_RULES,
        make_field_rule("overwrite", _check_overwrite),
    ),
    reserved_cost=reserved_cost,
    issued_cost=exact_cost,
    make_signer=_make_signer,
    s3_actions=STORE_ACTIONS,
    adapt_to_provider=_adapt_to_provider,
    item_checks={"size": check_size, "checksum": check_checksum_format},
    required_field=RequiredField("size", Code.SIZE_REQUIRED),
    has_manifest=True,
    allows_manifest_upload=True,
)
