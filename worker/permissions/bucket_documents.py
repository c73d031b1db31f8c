"""The documents of a bucket: its policy, its CORS rules, and the rule that ends unfinished uploads.

Sources: AWS, "Condition keys for SigV4" (bucket-policy-s3-sigv4-conditions.html), "CORS
configuration" (ManageCorsUsing.html), "Aborting incomplete multipart uploads"
(mpu-abort-incomplete-mpu-lifecycle-config.html).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from valetkey.signing.sigv4 import ALGORITHM
from worker.core.aws_permissions import Need, ProfileUse, find_needs
from worker.core.issued_grants import aws_partition
from worker.core.role_session import bucket_arn
from worker.core.tenant_config import Policy
from worker.permissions.documents import Document, Resource, policy, quote_words

_DAY = 86_400
_CLEANUP_DAYS = 8  # the cleanup tries to abort an upload for a week, and needs to find it
_MAX_RULES = 100  # of the 1,000 that a bucket can have
_CORS_SECONDS = 3_600  # for which a browser remembers the rules

# The methods that a page uses for each kind of grant.
_METHODS: Mapping[str, tuple[str, ...]] = {
    "download": ("GET",),
    "upload": ("POST",),
    "put": ("PUT",),
    "multipart": ("PUT", "POST", "DELETE"),
}


def longest_lifetime(uses: Iterable[ProfileUse]) -> int:
    """Return the longest lifetime in seconds that a policy and its bucket profile allow."""
    return max(
        (
            min(item.max_expires_in, use.bucket.max_expires_in)
            for use in uses
            for item in use.policies
        ),
        default=0,
    )


def deny(sid: str, resources: Any, condition: Mapping[str, Any]) -> dict[str, Any]:
    """Return a statement that denies S3 to everybody under a condition."""
    return {
        "Sid": sid,
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": resources,
        "Condition": condition,
    }


def bucket_policy(use: ProfileUse) -> Document:
    """Return the policy of a bucket."""
    name = use.bucket.bucket
    bucket = bucket_arn(aws_partition(use.bucket.region), name)
    objects = f"{bucket}/*"
    lifetime = longest_lifetime([use])
    statements = [deny("TlsOnly", [bucket, objects], {"Bool": {"aws:SecureTransport": "false"}})]
    reasons = {"TlsOnly": "all features: a link that is sent in the clear can be read on its way."}
    is_aws = use.bucket.provider == "aws"
    if is_aws:  # a server that does not know the condition would refuse everything
        other = {"StringNotEquals": {"s3:signatureversion": ALGORITHM}}
        statements.append(deny("SignatureVersion4Only", objects, other))
        reasons["SignatureVersion4Only"] = "all features: the older version signs no headers."
    if is_aws and lifetime:
        limit = {"NumericGreaterThan": {"s3:signatureAge": str(lifetime * 1_000)}}
        statements.append(deny("NoOldSignatures", objects, limit))
        reasons["NoOldSignatures"] = (
            f"links and forms: no policy allows more than {lifetime:,} seconds (in milliseconds)."
        )
    for need in _foreign_needs(use):
        statement = need.statement() | {"Principal": {"AWS": use.bucket.role_arn}}
        statements.append(statement)
        reasons[statement["Sid"]] = (
            f"{need.permission.feature}: the role is of another account than the bucket."
        ).replace("`", "")
    return Document(
        f"bucket-policy-{name}",
        f"The policy of the bucket {name}. It replaces the present one.",
        policy(statements),
        reasons,
        quote_words("aws", "s3api", "put-bucket-policy", "--bucket", name) + " --policy {file}",
        Resource("aws_s3_bucket_policy", {"bucket": name}, "policy"),
    )


def _foreign_needs(use: ProfileUse) -> Iterator[Need]:
    """Yield what the bucket itself must allow to a role of another account.

    Source: AWS, "Cross-account policy evaluation logic" (reference_policies_evaluation-logic-cross-
    account.html).
    """
    bucket = use.bucket
    if bucket.role_arn is None or bucket.owner in {None, bucket.role_arn.split(":")[4]}:
        return
    for need in find_needs(use):
        if need.permission.scope in {"objects", "bucket", "listing"}:
            yield need


def cors_origins(policies: Iterable[Policy]) -> list[str]:
    """Return the origins of the pages to which forms may redirect."""
    urls = (urlsplit(url) for item in policies for url in item.redirects)
    return sorted({f"{url.scheme}://{url.netloc}" for url in urls})


def cors_rules(use: ProfileUse, origins: Sequence[str]) -> Document:
    """Return the CORS rules of a bucket for pages of some origins."""
    name = use.bucket.bucket
    kinds = {kind for item in use.policies for kind in item.kinds}
    methods = dict.fromkeys(
        method for kind in _METHODS if kind in kinds for method in _METHODS[kind]
    )
    rule = {
        "ID": "valetkey-pages",
        "AllowedOrigins": list(origins),
        "AllowedMethods": [method for method in methods if method != "POST" or use.bucket.post],
        "AllowedHeaders": ["*"],
        "ExposeHeaders": ["ETag", "x-amz-version-id"],
        "MaxAgeSeconds": _CORS_SECONDS,
    }
    reason = (
        "pages: a program in a page sends the request and reads the answer. Every header is"
        " allowed, as the signature decides which ones storage accepts; ETag completes a"
        " multipart upload."
    )
    return Document(
        f"cors-{name}",
        f"The CORS rules of the bucket {name}. They replace the present ones.",
        {"CORSRules": [rule]},
        {rule["ID"]: reason},  # type: ignore[dict-item] # the ID is a text
        quote_words("aws", "s3api", "put-bucket-cors", "--bucket", name)
        + " --cors-configuration {file}",
        Resource("aws_s3_bucket_cors_configuration", {"bucket": name}, None),
    )


def lifecycle_rules(use: ProfileUse) -> Document | None:
    """Return the rules that abort unfinished multipart uploads; None if nobody starts any."""
    name = use.bucket.bucket
    uploads = [item for item in use.policies if "multipart" in item.kinds]
    if not uploads and "export" not in use.options:
        return None
    lifetime = longest_lifetime([ProfileUse(use.bucket, tuple(uploads))])
    days = -(-lifetime // _DAY) + _CLEANUP_DAYS
    prefixes = next(
        (need.targets for need in find_needs(use) if need.permission.sid == "AbortUploads"), ("",)
    )
    if len(prefixes) > _MAX_RULES:
        prefixes = ("",)
    rules = [
        {
            "ID": f"valetkey-unfinished-uploads-{number}",
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
        }
        for number, prefix in enumerate(prefixes, 1)
    ]
    reason = (
        f"multipart uploads: parts that are left cost money. After {days} days neither a grant"
        " nor the cleanup uses an upload; an earlier abort would leave its bytes charged."
    )
    return Document(
        f"lifecycle-{name}",
        f"The lifecycle rules of the bucket {name}. They replace the present ones.",
        {"Rules": rules},
        {str(rule["ID"]): reason for rule in rules},
        quote_words("aws", "s3api", "put-bucket-lifecycle-configuration", "--bucket", name)
        + " --lifecycle-configuration {file}",
        Resource("aws_s3_bucket_lifecycle_configuration", {"bucket": name}, None),
    )
