"""Adds statements to bucket policies, proves that they deny, and keeps them until grants expire."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import structlog

from worker.aws.storage_calls import call_storage
from worker.aws.storage_requests import StorageConnection, StorageRequest
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.jobs import JobRun
from worker.context import Context
from worker.core.issued_grants import aws_partition, storage_name
from worker.core.revocation_targets import LiveGrant
from worker.core.role_session import policy_session
from worker.core.signing_context import Validity
from worker.core.storage_errors import ErrorResponse
from worker.core.tenant_config import Bucket
from worker.errors import Malformed, Transient
from worker.revoke.levers import Denial, Lever
from worker.revoke.policy_document import (
    PolicyChange,
    change_policy,
    denial_sid,
    denial_statement,
    includes,
    key_arn,
    prefix_arn,
)
from worker.revoke.revocation_rows import (
    DenialRow,
    LiveDenial,
    delete_denials,
    read_denials,
    store_policy_bytes,
)

_NO_POLICY = "NoSuchBucketPolicy"
_GONE = "NoSuchBucket"
_ATTEMPTS = 3


def change_statements(
    client: Any,
    bucket: str,
    statements: Sequence[dict[str, Any]],
    removed: Collection[str] = (),
) -> tuple[int, Mapping[str, str]]:
    """Have a bucket's policy contain statements, and none of the removed Sids.

    Returns the size of the policy, and why statements are not in it, by Sid.
    A statement that does not fit, or that storage refuses, keeps out no other and delays no
    removal: if storage refuses the change as a whole, each is made alone. Raises Transient, and
    Malformed if the policy cannot be changed at all.
    """
    with suppress(Malformed):
        change = _change_policy(client, bucket, statements, removed)
        return change.size, change.unfit
    kept: list[dict[str, Any]] = []
    problems: dict[str, str] = {}
    change = _change_policy(client, bucket, (), removed)
    for each in statements:
        try:
            change = _change_policy(client, bucket, [*kept, each], ())
        except Malformed as error:
            problems[each["Sid"]] = str(error)
        else:
            problems |= change.unfit
            kept += [] if each["Sid"] in change.unfit else [each]
    return change.size, problems


def _change_policy(
    client: Any, bucket: str, statements: Sequence[dict[str, Any]], removed: Collection[str]
) -> PolicyChange:
    """Make a change, and read the policy again until it has it.

    S3 replaces a policy as a whole, and cannot tell whether another process has changed it
    meanwhile: a change that was lost is made again. Raises Malformed only if nothing was changed.
    """
    for attempt in range(_ATTEMPTS + 1):
        try:
            change = change_policy(read_policy(client, bucket), statements, removed)
            if change.is_done:
                return change
            if attempt < _ATTEMPTS:
                _write_policy(client, bucket, change.policy)
        except Malformed as error:
            if attempt:
                raise Transient(str(error)) from None
            raise
    raise Transient("another process changes the bucket's policy at the same time")


def read_policy(client: Any, bucket: str) -> str | None:
    """Return the policy of a bucket, or None. Raises Transient and Malformed."""
    response = call_storage(client.get_bucket_policy, Bucket=bucket)
    if not isinstance(response, ErrorResponse):
        return str(response["Policy"])
    if response.code in {_NO_POLICY, _GONE}:
        return None
    raise Malformed(f"storage does not show the bucket's policy: {response.words}")


def _write_policy(client: Any, bucket: str, policy: str | None) -> None:
    if policy is None:
        response = call_storage(client.delete_bucket_policy, Bucket=bucket)
    else:
        response = call_storage(client.put_bucket_policy, Bucket=bucket, Policy=policy)
    if isinstance(response, ErrorResponse):
        raise Malformed(f"storage refuses the change of the bucket's policy: {response.words}")


SESSION_NAME = "revocation"
"""The name of a role's session in storage's logs."""


def new_statements(
    denials: Iterable[Denial],
    revocation_id: str,
    on_aws: Collection[str],
    earlier: Mapping[str, LiveDenial],
) -> list[tuple[Denial, dict[str, Any]]]:
    """Return the statement of each denial. on_aws are the bucket profiles on AWS.

    earlier are the statements that are used again, by the place of the denial.
    """
    statements = []
    for denial in denials:
        if denial.where in earlier:
            statement = json.loads(earlier[denial.where].row.statement)
        else:
            statement = _statement(denial, revocation_id, on_aws)
        statements.append((denial, statement))
    return statements


def denial_row(denial: Denial, statement: dict[str, Any]) -> DenialRow:
    """Return the row of a statement, by which the upkeep keeps and removes it."""
    text = json.dumps(statement)
    return DenialRow(statement["Sid"], denial.profile.name, denial.where, text, denial.lapses_at)


def find_earlier(
    levers: Iterable[Lever], live: Sequence[LiveDenial], on_aws: Collection[str]
) -> dict[str, LiveDenial]:
    """Return the oldest statement that already denies all that a lever would, by its place.

    It denies at least as long. The live statements are in the order of their age.
    """
    earlier: dict[str, LiveDenial] = {}
    for denial in levers:
        if not isinstance(denial, Denial):
            continue
        wanted = _statement(denial, "", on_aws)
        for each in live:
            is_here = each.row.storage == denial.where and each.row.lapses_at >= denial.lapses_at
            if is_here and _includes(json.loads(each.row.statement), wanted):
                earlier.setdefault(denial.where, each)
    return earlier


def is_denied(
    object_key: str, denial: Denial, live: Iterable[LiveDenial], on_aws: Collection[str]
) -> bool:
    """Return whether one of these statements denies an object in the bucket of a denial.

    It may end before the denial would, and so be no substitute for it.
    """
    bucket = denial.profile
    place = aws_partition(bucket.region), bucket.bucket
    arn = key_arn(*place, object_key, has_variables=bucket.name in on_aws)
    here = [each.row.statement for each in live if each.row.storage == denial.where]
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
    client = context.s3.client(bucket, SESSION_NAME, (), context.now(), policy_session)
    before, known, size = None, set[str](), None
    while (rows := _read_rows(storage, context)) != before:
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


def _read_rows(storage: str, context: Context) -> tuple[list[DenialRow], list[DenialRow]]:
    with read_transaction(context.engine) as connection:
        return read_denials(connection, context.now(), storage)


def _statement(denial: Denial, revocation_id: str, on_aws: Collection[str]) -> dict[str, Any]:
    bucket, objects = denial.profile, denial.objects
    # Others ignore a statement with a condition, and take variables literally.
    is_aws = bucket.name in on_aws
    place = aws_partition(bucket.region), bucket.bucket
    arns = [
        *(key_arn(*place, key, has_variables=is_aws) for key in objects.keys),
        *(prefix_arn(*place, prefix, has_variables=is_aws) for prefix in objects.prefixes),
    ]
    sid = denial_sid(revocation_id, denial.where)
    return denial_statement(sid, arns, denial.actions, denial.lapses_at, has_conditions=is_aws)


Proof = Literal["proven", "repeated", "accepted", "untried"]
"""The result for one bucket.

proven: storage served a link before the denial, and refuses it now. repeated: an earlier revocation
denied its object, and storage refused it before and now. accepted: it still serves it. untried:
it served none before, so that a refusal now proves nothing.
"""

USER_AGENT = "valetkey-revocation-proof"
_VALID_SECONDS = 300
_REQUEST_SECONDS = 5.0
_SERVED = {200, 206, 416}  # 416: an empty object has no first byte
_FORBIDDEN = 403
_PROOF_SECONDS = 20.0  # S3 applies a policy within seconds
_POLL_SECONDS = 0.5
_MAX_LINKS = 3


@dataclass(frozen=True, slots=True)
class ProofLink:
    """A link that storage served or, if is_refused, did not allow before the denial.

    endpoint is where the request goes, if not to the link's host.
    """

    object_key: str
    request: StorageRequest
    endpoint: str | None
    is_refused: bool = False


def find_proof_link(
    bucket: Bucket, grants: Iterable[LiveGrant], context: Context
) -> ProofLink | None:
    """Return a link to the object of one of these downloads that storage serves now, or None.

    If it serves none of them, return one that it refuses. It is signed with the credentials that
    sign grants, and has no grant id and a user agent of its own: the import of access logs takes it
    for nobody's download. Only the first byte is requested. An upload would prove nothing without
    storing an object. Raises Transient and Malformed.
    """
    keys = dict.fromkeys(grant.object_key for grant in grants)  # in order, and each once
    endpoint = context.s3.internal_endpoint(bucket)
    refused = None
    for object_key in list(keys)[:_MAX_LINKS]:
        link = ProofLink(object_key, _sign_link(bucket, object_key, context), endpoint)
        status = _use_link(link)
        if status in _SERVED:
            return link
        if status == _FORBIDDEN:
            refused = replace(link, is_refused=True)
    return refused


def prove_denial(link: ProofLink | None, *, is_repeated: bool) -> Proof:
    """Return the proof of a denial; is_repeated, if an earlier one denied the link's object.

    Raises Transient.
    """
    if link is None or (link.is_refused and not is_repeated):
        return "untried"
    proof = await_refusal(lambda: _use_link(link) == _FORBIDDEN, _PROOF_SECONDS)
    return "repeated" if link.is_refused and proof == "proven" else proof


def await_refusal(is_refused: Callable[[], bool], seconds: float) -> Proof:
    """Repeat a request until storage refuses it, or a time is over."""
    end = time.monotonic() + seconds
    while not is_refused():
        if time.monotonic() >= end:
            return "accepted"
        time.sleep(_POLL_SECONDS)
    return "proven"


def _sign_link(bucket: Bucket, object_key: str, context: Context) -> StorageRequest:
    now = context.now().replace(microsecond=0)
    credentials = context.s3.credentials(bucket, SESSION_NAME, (object_key,), now, timedelta(0))
    validity = Validity(now, _VALID_SECONDS, "request")
    signer = context.s3.signing_context(bucket, credentials, validity).signer_for("GET")
    headers = {"range": "bytes=0-0", "user-agent": USER_AGENT}
    return StorageRequest("GET", signer.sign(object_key).url, headers)


def _use_link(link: ProofLink) -> int:
    with closing(StorageConnection()) as connection:
        try:
            return connection.send(link.request, _REQUEST_SECONDS, link.endpoint).status
        except Transient as error:
            raise Transient(f"a link could not be tried: {error}") from None


log = structlog.get_logger()


def keep_denials(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Remove the statements that deny nothing any more, and return their number as `denials`.

    A statement that still denies a grant is added again if another process has overwritten the
    policy, or changed the statement. A row is deleted only after its statement was seen gone; what
    fails is logged and tried again. Raises Transient if the database is out of reach.
    """
    run = run or JobRun()
    with read_transaction(context.engine) as connection:
        live, lapsed = read_denials(connection, context.now())
    removed = 0
    denials = [*live, *lapsed]
    for storage in sorted({denial.storage for denial in denials}):
        if run.is_stopping:
            break
        here = [denial for denial in denials if denial.storage == storage]
        if _keep_in_storage(storage, [denial.bucket for denial in here], context):
            removed += len([denial for denial in here if denial in lapsed])
        run.progress()
    return {"denials": removed}


def _keep_in_storage(storage: str, profiles: Iterable[str], context: Context) -> bool:
    """Keep the statements of one bucket, log why some are not, and return whether any could be."""
    # A profile that added a statement, if it still leads to the bucket.
    config = context.config.current()
    bucket = config.find_bucket(lambda each: storage_name(each) == storage, profiles)
    problems: Mapping[str, str] = {}
    problem: str | None = "no bucket profile leads to this bucket any more: add one again"
    is_kept = False
    if bucket is not None:
        try:
            problems = keep_statements(bucket, storage, context)
            problem, is_kept = next(iter(problems.values()), None), True
        except (Malformed, Transient) as error:
            problem = str(error)
        except Exception as error:
            # A policy that nothing was written for must not stop the statements of other buckets.
            log.exception("denials_failed", storage=storage)
            problem = type(error).__name__
    context.problems.note(
        "denials_left", storage, problem, storage=storage, statements=list(problems)
    )
    return is_kept
