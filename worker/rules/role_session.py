"""A session of an IAM role for one tenant: its name, and the policy that limits it to the tenant.

A session may do only what both its role and its session policy allow. If a bug signed a key of
another tenant, storage would refuse the URL.

Source: AWS, "AssumeRole" (API_AssumeRole.html) and "Policy variables" (reference_policies_
variables.html).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.rules.grant_kinds import ALL_S3_ACTIONS
from worker.rules.tenant_config import Bucket

MAX_POLICY_LENGTH = 2_048  # characters; AWS: API_AssumeRole.html
_MAX_NAME_LENGTH = 64  # characters; AWS: API_AssumeRole.html

# Objects encrypted with a KMS key require that key as well. Only S3 may use it for the session.
KMS_STATEMENT = {
    "Effect": "Allow",
    "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
    "Resource": "*",
    "Condition": {"StringLike": {"kms:ViaService": "s3.*"}},
}
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_SPECIAL = re.compile(r"[*?$]")


@dataclass(frozen=True, slots=True)
class RoleSession:
    """The AssumeRole parameters of a session: role, name, policy, region, duration and external id.

    name is the only part that storage's access logs show. A session from before sessions_from was
    ended: it has to be renewed.
    """

    role_arn: str
    name: str
    policy: str = field(repr=False)
    region: str
    seconds: int = 3_600
    external_id: str | None = field(default=None, repr=False)
    sessions_from: datetime | None = field(default=None, compare=False)

    @property
    def earliest_end(self) -> datetime:
        """The end of the oldest session that may still sign.

        The end is a time of the clock of STS, as AWS compares it, and not of the clock of this
        machine. AWS grants the duration that was requested, or refuses (API_AssumeRole.html).
        """
        if self.sessions_from is None:
            return _LONG_AGO
        return self.sessions_from + timedelta(seconds=self.seconds)


SessionLimit = Callable[[RoleSession, str, tuple[str, ...]], RoleSession]
"""Gives a session another policy: for a real bucket, and prefixes in it."""


def role_session(
    role_arn: str, bucket: Bucket, tenant: str, prefixes: tuple[str, ...]
) -> RoleSession:
    """Return the session of a role that signs for a tenant in a bucket profile."""
    return RoleSession(
        role_arn=role_arn,
        name=f"valetkey-{tenant}"[:_MAX_NAME_LENGTH],
        policy=session_policy(role_arn, bucket.bucket, prefixes),
        region=bucket.region,
        seconds=bucket.role_seconds,
        external_id=bucket.external_id,
        sessions_from=bucket.sessions_from,
    )


def session_policy(role_arn: str, bucket: str, prefixes: tuple[str, ...]) -> str:
    """Return the policy that allows the objects under these prefixes of a real bucket."""
    objects = object_arns(session_bucket_arn(role_arn, bucket), prefixes)
    return policy_text(allow(ALL_S3_ACTIONS, objects), KMS_STATEMENT)


def bucket_arn(partition: str, bucket: str) -> str:
    """Return the ARN of a real bucket; an access point is named by its ARN."""
    return bucket if bucket.startswith("arn:") else f"arn:{partition}:s3:::{bucket}"


def object_arns(arn: str, prefixes: Sequence[str]) -> list[str]:
    """Return the ARNs of all objects below prefixes, in the bucket or access point of an ARN.

    Source: AWS, "Configuring IAM policies for using access points" (access-points-policies.html).
    """
    separator = "/object/" if arn.partition("/")[2] else "/"
    return [f"{arn}{separator}{pattern}" for pattern in prefix_patterns(prefixes)]


def session_bucket_arn(role_arn: str, bucket: str) -> str:
    """Return the ARN of a real bucket in the partition of a role."""
    return bucket_arn(role_arn.split(":")[1], bucket)


def allow(actions: str | Sequence[str], resource: str | list[str]) -> dict[str, Any]:
    """Return a statement that allows actions on resources."""
    return {"Effect": "Allow", "Action": actions, "Resource": resource}


def policy_document(*statements: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy of IAM, or of a resource, with these statements."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def policy_text(*statements: Mapping[str, Any]) -> str:
    """Return a policy with these statements as the parameter of a session."""
    return json.dumps(policy_document(*statements), separators=(",", ":"))


def prefix_patterns(prefixes: Sequence[str]) -> list[str]:
    """Return the patterns of all names below prefixes."""
    # In a resource these characters are wildcards, or begin a variable.
    return [f"{_SPECIAL.sub(lambda match: f'${{{match[0]}}}', prefix)}*" for prefix in prefixes]
