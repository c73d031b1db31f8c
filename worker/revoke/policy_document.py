"""The statements in a bucket's policy that deny the requests of grants, and the objects they name.

Sources: AWS, "Bucket policies" (example-bucket-policies.html), its limit of 20 KB
(BucketRestrictions.html), and "Amazon S3 condition keys" (amazon-s3-policy-keys.html:
s3:authType).
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

from valetkey.units import format_utc
from worker.core.revocation_targets import LiveGrant, Target
from worker.core.sigv4 import FILENAME_VARIABLE
from worker.core.tenant_config import TenantConfig
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
    """Return whether an object is among the resources of a statement of ours, as `key_arn`."""
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
        return {"Version": _VERSION, "Statement": []}
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


MAX_KEYS = 150
"""The number of single keys that a statement may name: more do not fit into a bucket's policy."""


class DeniedObjects(NamedTuple):
    """Object keys, and prefixes of object keys."""

    keys: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def include(self, object_key: str) -> bool:
        """Return whether the key of a grant is denied. That of a form may end in ${filename}."""
        return object_key in self.keys or object_key.startswith(self.prefixes)


def denied_objects(
    target: Target, targeted: Sequence[LiveGrant], config: TenantConfig
) -> DeniedObjects:
    """Return the objects of targeted grants of one bucket: all of them are included.

    A tenant's are denied by the prefixes of its policy, as far as the grants are under them: the
    policy may have allowed others when they were issued.
    """
    if target.kind == "prefix":
        return DeniedObjects(prefixes=(target.value,))
    prefixes = {
        grant.object_key.removesuffix(FILENAME_VARIABLE)  # its client chooses the rest of the key
        for grant in targeted
        if grant.kind == "upload" and grant.object_key.endswith(FILENAME_VARIABLE)
    }
    if target.kind == "tenant":
        prefixes.update(_policy_prefixes(targeted, config))
    below = tuple(prefixes)
    rest = frozenset(
        grant.object_key for grant in targeted if not grant.object_key.startswith(below)
    )
    if target.kind == "tenant" and len(rest) > MAX_KEYS:
        folders = _common_folders(rest)
        if "" not in folders:  # it would be the whole bucket
            prefixes, rest = prefixes | folders, frozenset()
    return DeniedObjects(rest, tuple(sorted(prefixes)))


def _policy_prefixes(targeted: Iterable[LiveGrant], config: TenantConfig) -> Iterable[str]:
    for grant in targeted:
        access = config.find_access(grant.tenant, grant.bucket)
        for prefix in access.policy.prefixes if access else ():
            if grant.object_key.startswith(prefix):
                yield prefix


def _common_folders(keys: Iterable[str]) -> set[str]:
    """Return the folders that contain these keys, the longest ones that are few enough."""
    folders = {_folder(key) for key in keys}
    while len(folders) > MAX_KEYS:
        depth = max(folder.count("/") for folder in folders)
        folders = {_parent(each) if each.count("/") == depth else each for each in folders}
    return {each for each in folders if _parent(each) not in folders or not each}


def _folder(key: str) -> str:
    return key[: key.rfind("/") + 1]


def _parent(folder: str) -> str:
    return _folder(folder.removesuffix("/"))
