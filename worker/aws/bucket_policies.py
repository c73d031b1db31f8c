"""Adds statements of our own to a bucket's policy, and removes them again."""

from collections.abc import Collection
from typing import Any

from worker.aws.storage_calls import call_storage
from worker.core.policy.error_responses import ErrorResponse
from worker.core.revocation.bucket_policy import change_policy, find_sids
from worker.errors import Malformed, Transient

_NO_POLICY = "NoSuchBucketPolicy"
_GONE = "NoSuchBucket"
_ATTEMPTS = 3


def change_statements(
    client: Any,
    bucket: str,
    statements: Collection[dict[str, Any]],
    removed: Collection[str] = (),
) -> None:
    """Have a bucket's policy contain statements, and none of the removed Sids.

    S3 replaces a policy as a whole, and cannot tell whether another process has changed it
    meanwhile. So the policy is read again afterwards: if the change was lost, it is made again.
    Raises Transient and Malformed.
    """
    present = {each["Sid"] for each in statements}
    for _ in range(_ATTEMPTS):
        policy = _read(client, bucket)
        if _is_done(policy, present, removed):
            return
        missing = [each for each in statements if each["Sid"] not in find_sids(policy)]
        _write(client, bucket, change_policy(policy, missing, removed))
    if not _is_done(_read(client, bucket), present, removed):
        raise Transient("another process changes the bucket's policy at the same time")


def _is_done(policy: str | None, present: set[str], removed: Collection[str]) -> bool:
    sids = find_sids(policy)
    return present <= sids and sids.isdisjoint(removed)


def _read(client: Any, bucket: str) -> str | None:
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
