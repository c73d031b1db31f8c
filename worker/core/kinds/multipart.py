"""The kind `multipart`: a multipart upload that the service starts, and its completion."""

from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import MAX_PARTS, Multipart
from worker.core.kinds.content_types import check_content_type
from worker.core.kinds.item_checks import check_size
from worker.core.kinds.rules import make_field_rule, make_kind_rule, refuse
from worker.core.kinds.spec import GrantKind, RequiredField
from worker.core.kinds.storage_rules import STORAGE_RULES, STORE_ACTIONS, exact_cost, reserved_cost
from worker.core.signing.context import ItemSigner, SignedGrant, SigningContext
from worker.core.signing.digests import signature_digest
from worker.core.signing.multipart_plan import StartedUpload, plan_parts
from worker.core.tenants.config import Policy

MAX_ITEMS = 50  # each item is a call to storage before anything is committed
_TOO_MANY_PARTS = "a file of this size has more than 10,000 parts of this part_size"


def _check_part_size(terms: Multipart, _: Policy) -> Refusal | None:
    if plan_parts(terms.max_size, terms.part_size) is not None:
        return None
    return refuse(Code.PART_INVALID, "grant.part_size", _TOO_MANY_PARTS, MAX_PARTS)


def _check_size(item: Item, terms: Multipart, field: str) -> Refusal | None:
    refusal = check_size(item, terms, field)
    if refusal is not None or plan_parts(item.size or 0, terms.part_size) is not None:
        return refusal
    text = _TOO_MANY_PARTS
    return Refusal(code=Code.PART_INVALID, field=field, message=text, limit=MAX_PARTS)


def _make_signer(_: Multipart, context: SigningContext) -> ItemSigner:
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


MULTIPART = GrantKind(
    terms_class=Multipart,
    rules=(
        make_kind_rule("multipart"),
        make_field_rule("content_type", check_content_type),
        *STORAGE_RULES,
        make_field_rule("part_size", _check_part_size),
    ),
    reserved_cost=reserved_cost,
    issued_cost=exact_cost,
    make_signer=_make_signer,
    s3_actions=STORE_ACTIONS | {"s3:AbortMultipartUpload"},
    item_checks={"size": _check_size},
    required_field=RequiredField("size", Code.SIZE_REQUIRED),
    max_items=MAX_ITEMS,
)
