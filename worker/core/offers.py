"""What a bucket's provider can take, where that is not all that S3 can."""

from valetkey.refusals import Code, Refusal
from valetkey.terms import AnyTerms, Put, Upload
from worker.core.tenancy import Bucket


def offered(terms: AnyTerms, bucket: Bucket) -> AnyTerms | Refusal:
    """Turn a form into a PUT of the items' exact sizes where the provider takes no forms.

    What only a form can promise is refused there (Cloudflare: R2 S3 API compatibility, PostObject).
    """
    if not isinstance(terms, Upload) or bucket.post:
        return terms
    if terms.success_status or terms.success_redirect or terms.content_type.endswith("/*"):
        return Refusal(
            code=Code.KIND_NOT_SUPPORTED,
            field="grant.kind",
            message="this storage takes no forms, and a put has no such success and type",
            limit="put",
        )
    only_forms = {"kind", "min_size", "success_status", "success_redirect"}
    return Put(**terms.model_dump(exclude=only_forms), overwrite=True)
