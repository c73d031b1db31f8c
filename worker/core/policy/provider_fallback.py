"""What a bucket's provider can take, where that is not all that S3 can."""

from collections.abc import Collection

from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import AnyTerms, Put, Upload
from worker.core.tenants.config import Bucket, Kind


def terms_for_provider(
    terms: AnyTerms, bucket: Bucket, kinds: Collection[Kind]
) -> AnyTerms | Refusal:
    """Turn a form into a PUT of the items' exact sizes where the provider takes no forms.

    kinds are those the policy allows: without put, such a form is refused, and so is what only a
    form can promise (Cloudflare: R2 S3 API compatibility, PostObject).
    """
    if not isinstance(terms, Upload) or bucket.post:
        return terms
    if "put" not in kinds:
        return Refusal(
            code=Code.KIND_NOT_SUPPORTED,
            field="grant.kind",
            message="this storage takes no forms, and the policy has no put instead",
        )
    if terms.success_status or terms.success_redirect or terms.content_type.endswith("/*"):
        return Refusal(
            code=Code.KIND_NOT_SUPPORTED,
            field="grant.kind",
            message="this storage takes no forms, and a put has no such success and type",
            limit="put",
        )
    only_forms = {"kind", "min_size", "success_status", "success_redirect"}
    return Put(**terms.model_dump(exclude=only_forms), overwrite=True)
