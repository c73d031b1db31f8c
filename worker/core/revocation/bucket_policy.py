"""Statements of our own in a bucket's policy, which deny the requests of grants.

Sources: AWS, "Bucket policies" (example-bucket-policies.html), its limit of 20 KB
(BucketRestrictions.html), and "Amazon S3 condition keys" (amazon-s3-policy-keys.html: s3:authType).
"""

import json
import re
from collections.abc import Collection, Iterable
from datetime import datetime
from hashlib import sha256
from typing import Any

from valetkey.units import format_utc
from worker.errors import Malformed

MAX_POLICY_BYTES = 20_480
SID_PREFIX = "ValetkeyRevocation"
_VERSION = "2012-10-17"
_PRESIGNED = ["REST-QUERY-STRING", "POST"]
_SPECIAL = re.compile(r"[*?$]")


def denial_sid(revocation_id: str, storage: str) -> str:
    """Return the Sid of a revocation's statement in the bucket of this storage name.

    It has letters and digits only, as IAM requires.
    """
    return SID_PREFIX + revocation_id.replace("-", "") + sha256(storage.encode()).hexdigest()[:8]


def denial_statement(
    sid: str,
    resources: Iterable[str],
    actions: Collection[str],
    lapses_at: datetime,
    *,
    has_conditions: bool,
) -> dict[str, Any]:
    """Return the statement that denies actions on objects, as `key_arn` and `prefix_arn` name them.

    With conditions, which not every storage knows, it denies only presigned requests and forms, and
    nothing after lapses_at. Without them, it denies every request, until it is removed.
    """
    statement: dict[str, Any] = {
        "Sid": sid,
        "Effect": "Deny",
        "Principal": "*",
        "Action": sorted(actions),
        "Resource": sorted(set(resources)),
    }
    if has_conditions:
        statement["Condition"] = {
            "StringEquals": {"s3:authType": _PRESIGNED},
            "DateLessThan": {"aws:CurrentTime": format_utc(lapses_at)},
        }
    return statement


def key_arn(partition: str, bucket: str, object_key: str, *, has_variables: bool) -> str:
    """Return the ARN of one object.

    Without variables, which not every storage knows, it may name a few other objects as well.
    """
    return f"arn:{partition}:s3:::{bucket}/{_escape(object_key, has_variables)}"


def prefix_arn(partition: str, bucket: str, prefix: str, *, has_variables: bool) -> str:
    """Return the ARN of all objects whose keys begin with a prefix, as `key_arn` does."""
    return f"arn:{partition}:s3:::{bucket}/{_escape(prefix, has_variables)}*"


def _escape(text: str, has_variables: bool) -> str:  # noqa: FBT001 - of the two functions above
    # In a resource these characters are wildcards, or begin a variable. ? is any one character:
    # SeaweedFS would take ${*} literally, and deny nothing.
    return _SPECIAL.sub(lambda match: f"${{{match[0]}}}" if has_variables else "?", text)


def change_policy(
    policy: str | None, statements: Collection[dict[str, Any]], removed: Collection[str] = ()
) -> str | None:
    """Return a bucket's policy with statements, and without those of the removed Sids.

    A statement replaces one of the same Sid, and everything else stays as it is. Returns None if no
    statement is left. Raises Malformed if the result is too large for S3, or the policy is not one.
    """
    document = _read(policy)
    sids = {*removed, *(each["Sid"] for each in statements)}
    others = [each for each in document["Statement"] if each.get("Sid") not in sids]
    if not others and not statements:
        return None
    text = json.dumps(document | {"Statement": [*others, *statements]}, separators=(",", ":"))
    if statements and len(text.encode()) > MAX_POLICY_BYTES:
        raise Malformed(
            f"the bucket's policy would have {len(text.encode()):,} bytes, and S3 takes"
            f" {MAX_POLICY_BYTES:,}: revoke a prefix instead of single keys"
        )
    return text


def find_sids(policy: str | None) -> frozenset[str]:
    """Return the Sids of a policy's statements. Raises Malformed if it is not one."""
    return frozenset(str(each.get("Sid")) for each in _read(policy)["Statement"])


def _read(policy: str | None) -> dict[str, Any]:
    if policy is None:
        return {"Version": _VERSION, "Statement": []}
    try:
        document = json.loads(policy)
        statements = document["Statement"]
        if isinstance(statements, dict):  # IAM allows a single statement without a list
            statements = [statements]
        if all(isinstance(each, dict) for each in statements):
            return {**document, "Statement": list(statements)}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise Malformed("the bucket has a policy that is not one: repair it first")
