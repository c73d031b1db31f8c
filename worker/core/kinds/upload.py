"""The kind `upload`: a presigned POST form."""

from collections.abc import Collection

from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import ObjectSize, Put, Upload
from worker.core.kinds.content_types import check_form_content_type
from worker.core.kinds.item_checks import check_checksum_format, check_size
from worker.core.kinds.rules import make_field_rule, make_kind_rule, refuse
from worker.core.kinds.spec import GrantKind
from worker.core.kinds.storage_rules import STORAGE_RULES, STORE_ACTIONS, reserved_cost
from worker.core.quotas.cost import Cost
from worker.core.signing.context import ItemSigner, SignedGrant, SigningContext
from worker.core.signing.digests import signature_digest
from worker.core.signing.forms import FormSigner
from worker.core.signing.multipart_plan import StartedUpload
from worker.core.signing.redirects import is_allowed_redirect
from worker.core.signing.storage_headers import (
    GRANT_ID_HEADER,
    checksum_form_fields,
    common_form_fields,
    file_conditions,
)
from worker.core.tenants.config import Bucket, Policy


class PutForForm(Put):
    """The put that replaces a form: it keeps the form's min_size, which a requested put has not."""

    min_size: ObjectSize = 0


def _adapt_to_provider(terms: Upload, bucket: Bucket, policy: Policy) -> Upload | Put | Refusal:
    """Turn a form into a PUT of each item's exact size if the provider takes no forms.

    The form is refused if the policy does not allow put, or if it asks for what only a form can do
    (Cloudflare: R2 S3 API compatibility, PostObject).
    """
    if bucket.post:
        return terms
    if "put" not in policy.kinds:
        text = "this storage takes no forms, and the policy does not allow put instead"
        return refuse(Code.KIND_NOT_SUPPORTED, "grant.kind", text)
    if terms.success_status or terms.success_redirect or terms.content_type.endswith("/*"):
        text = (
            "this storage takes no forms, and a put has no success_status, success_redirect"
            " or content type family"
        )
        return refuse(Code.KIND_NOT_SUPPORTED, "grant.kind", text, "put")
    form_only = {"kind", "success_status", "success_redirect"}
    return PutForForm(**terms.model_dump(exclude=form_only), overwrite=True)


def _check_redirect(terms: Upload, policy: Policy) -> Refusal | None:
    redirect = terms.success_redirect
    if redirect is None or is_allowed_redirect(redirect, policy.redirects):
        return None
    text = (
        "a redirect is an https:// URL of ASCII characters with the host and port, and the path or"
        " a path below it, of one of the policy's redirects; it has no user, fragment, empty or dot"
        " segment, or ${filename}"
    )
    allowed = list(policy.redirects)
    return refuse(Code.REDIRECT_NOT_ALLOWED, "grant.success_redirect", text, allowed)


def _make_signer(terms: Upload, context: SigningContext) -> ItemSigner:
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


def _issued_cost(terms: Upload, items: Collection[Item]) -> Cost:
    # A form takes any size up to max_size, whatever size the item names.
    return reserved_cost(terms, len(items))


UPLOAD = GrantKind(
    terms_class=Upload,
    rules=(
        make_kind_rule("upload"),
        make_field_rule("content_type", check_form_content_type),
        *STORAGE_RULES,
        make_field_rule("success_redirect", _check_redirect),
    ),
    reserved_cost=reserved_cost,
    issued_cost=_issued_cost,
    make_signer=_make_signer,
    s3_actions=STORE_ACTIONS,
    adapt_to_provider=_adapt_to_provider,
    item_checks={"size": check_size, "checksum": check_checksum_format},
    has_manifest=True,
    allows_manifest_upload=True,
)
