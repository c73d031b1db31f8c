"""The statements in a bucket's policy that deny the requests of grants.

Sources: AWS, "Bucket policies" (example-bucket-policies.html), its limit of 20 KB
(BucketRestrictions.html), and "Amazon S3 condition keys" (amazon-s3-policy-keys.html:
s3:authType).
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from valetkey.units import format_utc
from worker.errors import Malformed
from worker.revoke.levers import Denial
from worker.rules.role_session import policy_document
from worker.shared.aws_permissions import aws_partition
from worker.shared.limited_sessions import PRESIGNED

MAX_POLICY_BYTES = 20_480
SID_PREFIX = "ValetkeyRevocation"
_SPECIAL = re.compile(r"[*?$]")


def denial_sid(revocation_id: str, storage: str) -> str:
    """Return the Sid of a revocation's statement in the bucket of this storage name.

    It has letters and digits only, as IAM requires.
    """
    return SID_PREFIX + revocation_id.replace("-", "") + sha256(storage.encode()).hexdigest()[:8]


def denial_statement(denial: Denial, revocation_id: str) -> dict[str, Any]:
    """Return the statement that denies the actions of a denial on its objects.

    On AWS it denies only presigned requests and forms, and nothing after the denial lapses. Others
    ignore a statement with a condition: there it denies every request, until it is removed.
    """
    arns = {
        *(object_arn(denial, key) for key in denial.objects.keys),
        *(f"{object_arn(denial, prefix)}*" for prefix in denial.objects.prefixes),
    }
    statement: dict[str, Any] = {
        "Sid": denial_sid(revocation_id, denial.where),
        "Effect": "Deny",
        "Principal": "*",
        "Action": sorted(denial.actions),
        "Resource": sorted(arns),
    }
    if denial.is_aws:
        statement["Condition"] = {
            "StringEquals": {"s3:authType": PRESIGNED},
            "DateLessThan": {"aws:CurrentTime": format_utc(denial.lapses_at)},
        }
    return statement


def object_arn(denial: Denial, object_key: str) -> str:
    """Return the ARN of an object in the bucket of a denial.

    In a resource, some characters are wildcards, or begin a variable. AWS reads ${*} as the
    character *. Other storage takes it literally, and SeaweedFS would then deny nothing. There,
    each such character becomes ?, which also matches any other one.
    """
    bucket = denial.profile
    text = _SPECIAL.sub(lambda match: f"${{{match[0]}}}" if denial.is_aws else "?", object_key)
    return f"arn:{aws_partition(bucket.region)}:s3:::{bucket.bucket}/{text}"


class PolicyChange(NamedTuple):
    """The policy that a bucket should have, or None, and its size in bytes.

    unfit has a problem for the Sid of each statement for which there is no room. With is_done, the
    bucket has this policy already.
    """

    policy: str | None
    size: int
    unfit: Mapping[str, str]
    is_done: bool


def change_policy(
    policy: str | None, statements: Iterable[dict[str, Any]], removed: Collection[str] = ()
) -> PolicyChange:
    """Return a bucket's policy with these statements of ours, and without those of removed Sids.

    A statement replaces all of the same Sid, and everything else stays as it is. Earlier statements
    have precedence. One for which there is no room is left out: it keeps out no other. Raises
    Malformed if the policy is not one.
    """
    document, wanted = _read_policy(policy), list(statements)
    sids = {*removed, *(each["Sid"] for each in wanted)}
    ours = [each for each in document["Statement"] if each.get("Sid") in sids]
    others = [each for each in document["Statement"] if each.get("Sid") not in sids]
    kept: list[dict[str, Any]] = []
    unfit: dict[str, str] = {}
    for each in wanted:
        if (size := len(_encode_policy(document, [*others, *kept, each]))) <= MAX_POLICY_BYTES:
            kept.append(each)
        else:
            unfit[each["Sid"]] = (
                f"the bucket's policy would have {size:,} bytes, and S3 takes"
                f" {MAX_POLICY_BYTES:,}: revoke a prefix instead of single keys"
            )
    text = _encode_policy(document, [*others, *kept]) if others or kept else b""
    is_done = sorted(map(_normal_json, ours)) == sorted(map(_normal_json, kept))
    return PolicyChange(text.decode() or None, len(text), unfit, is_done)


def _encode_policy(document: dict[str, Any], statements: list[dict[str, Any]]) -> bytes:
    """Return a policy as boto3 sends it. UTF-8 is half as long as escapes, or less."""
    changed = document | {"Statement": statements}
    text = json.dumps(changed, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="backslashreplace")  # a lone surrogate, as JSON escapes it


def includes(resources: Iterable[str], arn: str) -> bool:
    """Return whether an object is among the resources of a statement of ours, as `object_arn`."""
    return any(
        arn == each or (each[-1:] == "*" and arn.startswith(each[:-1])) for each in resources
    )


def _normal_json(value: Any) -> str:
    """Return JSON that is the same for one value and a list of it, and in any order of a list."""
    if isinstance(value, dict) and value.keys() == {"AWS"}:
        value = value["AWS"]  # so MinIO writes the principal *
    if isinstance(value, dict):
        return json.dumps({name: _normal_json(each) for name, each in sorted(value.items())})
    return json.dumps(sorted(map(str, value if isinstance(value, list) else [value])))


def _read_policy(policy: str | None) -> dict[str, Any]:
    if policy is None:
        return policy_document()
    try:
        document = json.loads(policy)
        statements = document["Statement"]
        if isinstance(statements, dict):  # IAM allows a single statement without a list
            statements = [statements]
        if all(isinstance(each.get("Sid", ""), str) for each in statements):
            return {**document, "Statement": list(statements)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise Malformed("the bucket has a policy that is not one: repair it first")
