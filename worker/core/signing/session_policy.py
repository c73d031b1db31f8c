"""A role that is assumed for one tenant: how its session is named, and what holds it to the tenant.

A session may do what the role may and its session policy says, and nothing beyond either. So a
mistake of ours with a key signs a URL that storage refuses.

Source: AWS, "AssumeRole" (API_AssumeRole.html) and "Policy variables" (reference_policies_
variables.html).
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from worker.core.tenants.config import Bucket

MAX_POLICY_LENGTH = 2_048  # characters; AWS: API_AssumeRole.html
_LONGEST_NAME = 64  # characters; AWS: API_AssumeRole.html

# All that a grant may need of an object. The role's own policy says which of these it has.
_ACTIONS = (
    "s3:AbortMultipartUpload",
    "s3:GetObject",
    "s3:GetObjectVersion",
    "s3:PutObject",
    "s3:PutObjectAcl",
    "s3:PutObjectTagging",
)
# Objects under a KMS key need the key as well, and S3 alone may use it in their name.
_KEYS = {
    "Effect": "Allow",
    "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
    "Resource": "*",
    "Condition": {"StringLike": {"kms:ViaService": "s3.*"}},
}
_special = re.compile(r"[*?$]")


@dataclass(frozen=True, slots=True)
class RoleSession:
    """A role and all that its session depends on; seconds is the life that is asked for.

    session is its name, and the only part of it that storage's logs show.
    """

    arn: str
    session: str
    policy: str = field(repr=False)
    region: str
    seconds: int = 3_600
    external_id: str | None = field(default=None, repr=False)


def role_session(bucket: Bucket, tenant: str, prefixes: tuple[str, ...]) -> RoleSession | None:
    """The role that signs for a tenant in a bucket profile; None where the profile has none."""
    if bucket.role_arn is None:
        return None
    return RoleSession(
        arn=bucket.role_arn,
        session=f"valetkey-{tenant}"[:_LONGEST_NAME],
        policy=session_policy(bucket.role_arn, bucket.bucket, prefixes),
        region=bucket.region,
        seconds=bucket.role_seconds,
        external_id=bucket.external_id,
    )


def session_policy(role_arn: str, bucket: str, prefixes: tuple[str, ...]) -> str:
    """Allow a session the objects under these prefixes of a bucket, by its real name."""
    partition = role_arn.split(":")[1]
    objects: dict[str, Any] = {
        "Effect": "Allow",
        "Action": _ACTIONS,
        "Resource": [f"arn:{partition}:s3:::{bucket}/{_literal(p)}*" for p in prefixes],
    }
    policy = {"Version": "2012-10-17", "Statement": [objects, _KEYS]}
    return json.dumps(policy, separators=(",", ":"))


def _literal(prefix: str) -> str:
    # In a resource these are wildcards or begin a variable; written like this they are themselves.
    return _special.sub(lambda found: f"${{{found[0]}}}", prefix)
