"""Adds statements of our own to a bucket's policy, and removes them again."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from worker.aws.storage_calls import call_storage
from worker.core.policy.error_responses import ErrorResponse
from worker.core.revocation.bucket_policy import PolicyChange, change_policy
from worker.errors import Malformed, Transient

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
        change = _change(client, bucket, statements, removed)
        return change.size, change.unfit
    kept: list[dict[str, Any]] = []
    problems: dict[str, str] = {}
    change = _change(client, bucket, (), removed)
    for each in statements:
        try:
            change = _change(client, bucket, [*kept, each], ())
        except Malformed as error:
            problems[each["Sid"]] = str(error)
        else:
            problems |= change.unfit
            kept += [] if each["Sid"] in change.unfit else [each]
    return change.size, problems


def _change(
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
                _write(client, bucket, change.policy)
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


def _write(client: Any, bucket: str, policy: str | None) -> None:
    if policy is None:
        response = call_storage(client.delete_bucket_policy, Bucket=bucket)
    else:
        response = call_storage(client.put_bucket_policy, Bucket=bucket, Policy=policy)
    if isinstance(response, ErrorResponse):
        raise Malformed(f"storage refuses the change of the bucket's policy: {response.words}")
