"""The documents of a bucket: its policy, its CORS rules, and the rule that ends unfinished uploads.

A bucket may have several bucket profiles: each document is for all of them, as it replaces the
earlier one.

Sources: AWS, "Condition keys for SigV4" (bucket-policy-s3-sigv4-conditions.html), "CORS
configuration" (ManageCorsUsing.html), "Aborting incomplete multipart uploads"
(mpu-abort-incomplete-mpu-lifecycle-config.html).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from worker.permissions.documents import Document, Terraform, words
from worker.rules.role_session import bucket_arn, policy_document
from worker.shared.aws_permissions import ProfileUse, aws_partition, outermost

_DAY = 86_400
_CLEANUP_DAYS = 8  # the cleanup tries to abort an upload for a week, and needs to find it
_MAX_RULES = 100  # of the 1,000 that a bucket can have
_CORS_SECONDS = 3_600  # for which a browser remembers the rules

TLS_REASON = "all features: a link that is sent in the clear can be read on its way."
VERSION_2: Mapping[str, Any] = {"StringEquals": {"s3:signatureversion": "AWS"}}
"""The condition that a request has a signature of version 2.

A condition that it is not of version 4 would also be true for requests without a signature.
"""
VERSION_REASON = "all features: a signature of version 2 covers no headers."

# The methods that a page uses for each kind of grant.
_METHODS: Mapping[str, tuple[str, ...]] = {
    "download": ("GET",),
    "upload": ("POST",),
    "put": ("PUT",),
    "multipart": ("PUT", "POST", "DELETE"),
}


def longest_lifetime(uses: Iterable[ProfileUse], *kinds: str) -> int:
    """Return the longest lifetime in seconds of grants, of some kinds or of all.

    It is the smaller one of a policy's and its bucket profile's.
    """
    return max(
        (
            min(policy.max_expires_in, use.bucket.max_expires_in)
            for use in uses
            for policy in use.policies
            if not kinds or not set(kinds).isdisjoint(policy.kinds)
        ),
        default=0,
    )


def old_signatures(lifetime: int) -> tuple[dict[str, Any], str]:
    """Return the condition that a signature is older than a lifetime in seconds, and why."""
    reason = f"links and forms: no policy allows more than {lifetime:,} seconds (in milliseconds)."
    return {"NumericGreaterThan": {"s3:signatureAge": str(lifetime * 1_000)}}, reason


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


def bucket_policy(uses: Sequence[ProfileUse]) -> Document:
    """Return the policy of a bucket. Over plain HTTP, the service itself would be denied."""
    first = uses[0].bucket
    arn = bucket_arn(aws_partition(first.region), first.bucket)
    statements, reasons = [], {}
    if not any(is_plain(use) for use in uses):
        condition = {"Bool": {"aws:SecureTransport": "false"}}
        statements.append(deny("TlsOnly", [arn, f"{arn}/*"], condition))
        reasons["TlsOnly"] = TLS_REASON
    statements.append(deny("NoSignatureVersion2", f"{arn}/*", VERSION_2))
    reasons["NoSignatureVersion2"] = VERSION_REASON
    is_old, reason = old_signatures(longest_lifetime(uses))
    statements.append(deny("NoOldSignatures", f"{arn}/*", is_old))
    reasons["NoOldSignatures"] = reason
    name = first.bucket
    return Document(
        f"bucket-policy-{name}",
        f"The policy of the bucket {name}. It replaces the present one, with the statements of"
        " revocations that are in force: read that first, and keep what it has.",
        policy_document(*statements),
        reasons,
        f"{_aws(uses, 'get-bucket-policy')} > {{before}}\n"
        f"{_aws(uses, 'put-bucket-policy')} --policy {{file}}",
        Terraform("aws_s3_bucket_policy", {"bucket": name}, "policy"),
    )


def is_plain(use: ProfileUse) -> bool:
    """Return whether links, or the service's requests, go over plain HTTP."""
    endpoints = (use.bucket.endpoint, use.bucket.internal_endpoint)
    return any(endpoint and endpoint.startswith("http://") for endpoint in endpoints)


def _aws(uses: Sequence[ProfileUse], command: str) -> str:
    """Return a command of AWS' command line for the bucket."""
    bucket = uses[0].bucket
    endpoint = ("--endpoint-url", bucket.endpoint) if bucket.endpoint else ()
    return words("aws", "s3api", command, *endpoint, "--bucket", bucket.bucket)


def redirect_origins(uses: Iterable[ProfileUse]) -> list[str]:
    """Return the origins of the pages to which forms may redirect, as browsers write them."""
    redirects = {url for use in uses for policy in use.policies for url in policy.redirects}
    urls = map(urlsplit, redirects)
    return sorted(
        {f"https://{url.netloc.lower().removesuffix(':443')}" for url in urls if url.netloc}
    )


def cors_rules(uses: Sequence[ProfileUse], origins: Sequence[str]) -> Document:
    """Return the CORS rules of a bucket for pages of some origins."""
    name = uses[0].bucket.bucket
    kinds = {
        "put" if kind == "upload" and not use.bucket.post else kind
        for use in uses
        for policy in use.policies
        for kind in policy.kinds
    }
    methods = dict.fromkeys(name for kind in _METHODS if kind in kinds for name in _METHODS[kind])
    rule_id = "valetkey-pages"
    rule = {
        "ID": rule_id,
        "AllowedOrigins": list(origins),
        "AllowedMethods": list(methods),
        "AllowedHeaders": ["*"],
        "ExposeHeaders": ["ETag", "x-amz-version-id"],
        "MaxAgeSeconds": _CORS_SECONDS,
    }
    reason = (
        "pages: a program in a page sends the request and reads the answer. Every header is"
        " allowed, as the signature decides which ones storage accepts. ETag completes a multipart"
        " upload."
    )
    return Document(
        f"cors-{name}",
        f"The CORS rules of the bucket {name}. They replace the present ones.",
        {"CORSRules": [rule]},
        {rule_id: reason},
        f"{_aws(uses, 'put-bucket-cors')} --cors-configuration {{file}}",
        Terraform("aws_s3_bucket_cors_configuration", {"bucket": name}, None),
    )


def lifecycle_rules(uses: Sequence[ProfileUse]) -> Document | None:
    """Return the rules that abort unfinished multipart uploads; None if no policy allows any."""
    name = uses[0].bucket.bucket
    prefixes = outermost([prefix for use in uses for prefix in use.prefixes("multipart")])
    if not prefixes:
        return None
    days = -(-longest_lifetime(uses, "multipart") // _DAY) + _CLEANUP_DAYS
    is_wide = len(prefixes) > _MAX_RULES
    rules = [
        {
            "ID": f"valetkey-unfinished-uploads-{number}",
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
        }
        for number, prefix in enumerate(("",) if is_wide else prefixes, 1)
    ]
    reason = (
        f"multipart uploads: storage charges for parts that are left. After {days} days no grant"
        " and no cleanup uses an upload. If storage aborted it sooner, its bytes would stay in the"
        " quota."
    )
    wide = " There are many prefixes, so the rule is for uploads of the whole bucket." * is_wide
    return Document(
        f"lifecycle-{name}",
        f"The lifecycle rules of the bucket {name}. They replace the present ones.{wide}",
        {"Rules": rules},
        {str(rule["ID"]): reason for rule in rules},
        f"{_aws(uses, 'put-bucket-lifecycle-configuration')} --lifecycle-configuration {{file}}",
        Terraform("aws_s3_bucket_lifecycle_configuration", {"bucket": name}, None),
    )
