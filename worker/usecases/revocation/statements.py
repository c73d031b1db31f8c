"""Statements of our own in bucket policies, as a revocation adds them."""

import json
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from worker.aws.bucket_policies import change_statements
from worker.context import Context
from worker.core.kinds.role_session import policy_session
from worker.core.revocation.bucket_policy import (
    denial_sid,
    denial_statement,
    key_arn,
    prefix_arn,
)
from worker.core.revocation.levers import Denial, Lever
from worker.core.tenants.config import Bucket
from worker.db.revocation.rows import DenialRow

SESSION = "revocation"
"""The name of a role's session in storage's logs."""


class NewStatement(NamedTuple):
    """A statement that does a lever."""

    lever: Lever
    denial: Denial
    statement: dict[str, Any]

    def to_row(self) -> DenialRow:
        """Return its row, by which the upkeep keeps and removes it."""
        profile, storage = self.denial.profile.name, self.denial.storage
        return DenialRow(self.statement["Sid"], profile, storage, json.dumps(self.statement))


def new_statements(levers: Iterable[Lever], revocation_id: str) -> list[NewStatement]:
    """Return the statements of the levers that deny."""
    return [
        NewStatement(lever, lever.denial, _statement(lever, lever.denial, revocation_id))
        for lever in levers
        if lever.denial is not None
    ]


def change_bucket(
    bucket: Bucket,
    statements: Collection[dict[str, Any]],
    removed: Collection[str],
    context: Context,
) -> None:
    """Add statements to the policy of a profile's bucket, and remove those of other Sids.

    Raises Transient and Malformed.
    """
    client = context.s3.limited_client(bucket, SESSION, (), context.now(), policy_session)
    change_statements(client, bucket.bucket, statements, removed)


def _statement(lever: Lever, denial: Denial, revocation_id: str) -> dict[str, Any]:
    bucket, objects = denial.profile, denial.objects
    partition = "aws-cn" if bucket.region.startswith("cn-") else "aws"
    partition = "aws-us-gov" if bucket.region.startswith("us-gov-") else partition
    # Others ignore a statement with a condition, and take variables literally.
    is_aws = bucket.provider == "aws"
    place = partition, bucket.bucket
    arns = [
        *(key_arn(*place, key, has_variables=is_aws) for key in objects.keys),
        *(prefix_arn(*place, prefix, has_variables=is_aws) for prefix in objects.prefixes),
    ]
    sid = denial_sid(revocation_id, denial.storage)
    return denial_statement(sid, arns, denial.actions, lever.lapses_at, has_conditions=is_aws)
