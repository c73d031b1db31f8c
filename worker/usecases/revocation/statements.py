"""Statements of our own in bucket policies, as a revocation adds them."""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from worker.aws.bucket_policies import change_statements
from worker.context import Context
from worker.core.kinds.role_session import policy_session
from worker.core.revocation.bucket_policy import (
    denial_sid,
    denial_statement,
    includes,
    key_arn,
    prefix_arn,
)
from worker.core.revocation.levers import Denial, Lever
from worker.core.tenants.config import Bucket
from worker.core.tenants.storage_names import aws_partition
from worker.db.engine import read_transaction, write_transaction
from worker.db.revocation.rows import (
    DenialRow,
    LiveDenial,
    delete_denials,
    read_denials,
    store_policy_bytes,
)
from worker.errors import Malformed, Transient

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
        sid, lapses_at = self.statement["Sid"], self.lever.lapses_at
        return DenialRow(sid, profile, storage, json.dumps(self.statement), lapses_at)


def new_statements(
    levers: Iterable[Lever],
    revocation_id: str,
    on_aws: Collection[str],
    earlier: Mapping[str, LiveDenial],
) -> list[NewStatement]:
    """Return the statements of the levers that deny. on_aws are the bucket profiles on AWS.

    earlier are the statements that are used again, by the place of the lever.
    """
    statements: list[NewStatement] = []
    for lever in levers:
        if lever.denial is None:
            continue
        if lever.where in earlier:
            statement = json.loads(earlier[lever.where].row.statement)
        else:
            statement = _statement(lever, lever.denial, revocation_id, on_aws)
        statements.append(NewStatement(lever, lever.denial, statement))
    return statements


def find_earlier(
    levers: Iterable[Lever], denials: Iterable[LiveDenial], on_aws: Collection[str]
) -> dict[str, LiveDenial]:
    """Return a statement that already denies all that a lever would, by the lever's place.

    It denies at least as long.
    """
    earlier: dict[str, LiveDenial] = {}
    by_age = list(denials)
    for lever in levers:
        if lever.denial is None:
            continue
        wanted = _statement(lever, lever.denial, "", on_aws)
        for denial in by_age:
            lasts = denial.row.lapses_at >= lever.lapses_at
            is_here = denial.row.storage == lever.denial.storage
            if is_here and lasts and _includes(json.loads(denial.row.statement), wanted):
                earlier.setdefault(lever.where, denial)
    return earlier


def is_denied(
    object_key: str, denial: Denial, denials: Iterable[LiveDenial], on_aws: Collection[str]
) -> bool:
    """Return whether one of these statements denies an object in the bucket of a denial.

    It may end before the denial would, and so be no substitute for it.
    """
    bucket = denial.profile
    place = aws_partition(bucket.region), bucket.bucket
    arn = key_arn(*place, object_key, has_variables=bucket.name in on_aws)
    here = [each.row.statement for each in denials if each.row.storage == denial.storage]
    return any(includes(json.loads(statement)["Resource"], arn) for statement in here)


def _includes(statement: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    has_same_conditions = ("Condition" in statement) == ("Condition" in wanted)
    return has_same_conditions and all(
        set(wanted[name]) <= set(statement[name]) for name in ("Action", "Resource")
    )


def keep_statements(bucket: Bucket, storage: str, context: Context) -> Mapping[str, str]:
    """Have the policy of a bucket contain our live statements there, and none that have lapsed.

    Returns why live statements are not in it, by Sid. Deletes the rows of those that have lapsed.
    The rows are read again afterwards: a revocation that was recorded meanwhile may have lost its
    statement by this change of the policy. Raises Transient, and Malformed if the policy cannot be
    changed at all.
    """
    client = context.s3.limited_client(bucket, SESSION, (), context.now(), policy_session)
    before, known, size = None, set[str](), None
    while (rows := _read(storage, context)) != before:
        live, lapsed = before = rows
        known |= {each.sid for each in [*live, *lapsed]}
        ended = known.difference(each.sid for each in live)  # also rows that are gone by now
        statements = [json.loads(denial.statement) for denial in live]
        try:
            size, problems = change_statements(client, bucket.bucket, statements, ended)
        except Malformed as error:
            if size is None:
                raise
            raise Transient(str(error)) from None  # the policy has statements of ours
    gone = {each.sid for each in live if each.sid in problems and each.policy_bytes is not None}
    seen = {each.sid for each in live if each.sid not in problems and each.policy_bytes != size}
    if seen or gone or ended:
        with write_transaction(context.engine) as connection:
            store_policy_bytes(connection, seen, size)
            store_policy_bytes(connection, gone, None)
            delete_denials(connection, ended)
    return problems


def _read(storage: str, context: Context) -> tuple[list[DenialRow], list[DenialRow]]:
    with read_transaction(context.engine) as connection:
        return read_denials(connection, context.now(), storage)


def _statement(
    lever: Lever, denial: Denial, revocation_id: str, on_aws: Collection[str]
) -> dict[str, Any]:
    bucket, objects = denial.profile, denial.objects
    # Others ignore a statement with a condition, and take variables literally.
    is_aws = bucket.name in on_aws
    place = aws_partition(bucket.region), bucket.bucket
    arns = [
        *(key_arn(*place, key, has_variables=is_aws) for key in objects.keys),
        *(prefix_arn(*place, prefix, has_variables=is_aws) for prefix in objects.prefixes),
    ]
    sid = denial_sid(revocation_id, denial.storage)
    return denial_statement(sid, arns, denial.actions, lever.lapses_at, has_conditions=is_aws)
