"""Adds statements of our own to a bucket's policy, and removes them again."""

from collections.abc import Callable, Collection
from typing import Any

from worker.aws.storage_calls import call_storage
from worker.core.policy.error_responses import ErrorResponse
from worker.core.revocation.bucket_policy import add_statement, remove_statements
from worker.errors import Malformed, Transient

_NO_POLICY = "NoSuchBucketPolicy"
_GONE = "NoSuchBucket"
_ATTEMPTS = 3


def deny(client: Any, bucket: str, statement: dict[str, Any]) -> None:
    """Add a statement to a bucket's policy. Raises Transient and Malformed.

    S3 replaces a policy as a whole, and cannot tell whether another process has changed it
    meanwhile. So the policy is read again afterwards: if the statement was lost, it is added again.
    """
    _change(
        client,
        bucket,
        lambda policy: add_statement(policy, statement),
        lambda policy: policy is not None and f'"{statement["Sid"]}"' in policy,
    )


def undeny(client: Any, bucket: str, sids: Collection[str]) -> None:
    """Remove statements of our own from a bucket's policy. Raises Transient and Malformed."""
    _change(
        client,
        bucket,
        lambda policy: None if policy is None else remove_statements(policy, sids),
        lambda policy: policy is None or not any(f'"{sid}"' in policy for sid in sids),
    )


def _change(
    client: Any,
    bucket: str,
    change: Callable[[str | None], str | None],
    is_done: Callable[[str | None], bool],
) -> None:
    for _ in range(_ATTEMPTS):
        policy = _read(client, bucket)
        if is_done(policy):
            return
        _write(client, bucket, change(policy))
    if not is_done(_read(client, bucket)):
        raise Transient("another process changes the bucket's policy at the same time")


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
