"""The check of `doctor` that tries what the credentials may do, by requests that change nothing."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.aws.storage_calls import call_storage
from worker.errors import Malformed, Transient
from worker.rules.role_session import SessionLimit
from worker.rules.storage_errors import ErrorResponse
from worker.rules.tenant_config import is_ordinary_bucket
from worker.shared.aws_permissions import Need, ProfileUse, find_needs
from worker.shared.limited_sessions import cleanup_session, listing_session
from worker.shared.monitoring import Check, State

_TENANT = "doctor"  # in the name of a role's session
_MAX_PREFIXES = 10  # of each permission, as a service may have thousands of tenants
_SECONDS = 10.0  # after which no further request is sent
_NO_UPLOAD = "valetkey-doctor"
_MISSING = {"NoSuchKey", "NoSuchUpload"}
_LIST, _GET = "s3:ListBucket", "s3:GetObject"
_GRAVE = {_GET, "s3:PutObject"}  # without them, grants are issued that storage refuses


class _Request(NamedTuple):
    """A request that needs one action.

    method: of boto3's client. params: beside the bucket, for a prefix. limit: gives a role the
    session that may send it.
    """

    method: str
    params: Callable[[str], Mapping[str, Any]]
    limit: SessionLimit | None = None


def _key(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(16)}"


# Storage decides on the permission before it looks for the object or upload, which do not exist.
_REQUESTS: Mapping[str, _Request] = {
    _LIST: _Request("list_objects_v2", lambda p: {"Prefix": p, "MaxKeys": 1}, listing_session),
    _GET: _Request("get_object", lambda p: {"Key": _key(p)}),
    "s3:PutObject": _Request(
        "upload_part", lambda p: {"Key": _key(p), "UploadId": _NO_UPLOAD, "PartNumber": 1}
    ),
    "s3:AbortMultipartUpload": _Request(
        "abort_multipart_upload", lambda p: {"Key": _key(p), "UploadId": _NO_UPLOAD}
    ),
    "s3:ListBucketMultipartUploads": _Request(
        "list_multipart_uploads", lambda p: {"Prefix": p, "MaxUploads": 1}, cleanup_session
    ),
}
_Answer = Literal["allowed", "denied", "unknown"]


class _Result(NamedTuple):
    action: str
    prefix: str
    feature: str
    answer: _Answer


def check_permissions(s3: S3Clients, use: ProfileUse) -> Check | None:
    """Name the actions that storage denies, by feature; None if there is nothing to try."""
    name = use.bucket.name
    results = _send_all(s3, use)
    if not results:
        return None
    hint = (
        f"compare with `python -m worker permissions iam --profile {name}`; a bucket policy, a"
        " revocation or a guardrail denies, too"
    )
    denied = [result for result in results if result.answer == "denied"]
    if denied:
        actions = list(dict.fromkeys(result.action for result in denied))
        text = "; ".join(
            _describe(action, [result for result in denied if result.action == action])
            for action in actions
        )
        state: State = "fail" if _GRAVE.intersection(actions) else "warn"
        return Check("permissions", state, f"{name}: storage denies {text}", hint)
    unknown = sum(result.answer == "unknown" for result in results)
    if unknown:
        text = f"{name}: {unknown} of {len(results)} requests got no clear answer"
        return Check("permissions", "warn", text, "repeat doctor when storage answers")
    text = f"{name}: storage allows all {len(results)} requests that were tried"
    return Check("permissions", "ok", text)


def _describe(action: str, results: Sequence[_Result]) -> str:
    features = ", ".join(dict.fromkeys(result.feature for result in results))
    prefixes = list(dict.fromkeys(result.prefix for result in results if result.prefix))
    more = f" and {len(prefixes) - 1} more" if len(prefixes) > 1 else ""
    place = f" below {prefixes[0]}{more}" if prefixes else ""
    return f"{action}{place} ({features})"


def _send_all(s3: S3Clients, use: ProfileUse) -> list[_Result]:
    """Return the answers. Those for which there was no time are unknown.

    Storage answers 403 for a missing object to credentials that may not list: reads are tried only
    if lists are allowed.
    """
    end = time.monotonic() + _SECONDS
    answers: dict[tuple[str, str], _Answer] = {}
    results = []
    for need, action, prefix in _needed_actions(use):
        if action == _GET and answers.get((_LIST, "")) != "allowed":
            continue
        if (action, prefix) not in answers:
            has_time = time.monotonic() < end
            answers[action, prefix] = _send(s3, use, action, prefix) if has_time else "unknown"
        feature = need.permission.feature
        results.append(_Result(action, prefix, feature, answers[action, prefix]))
    return results


def _needed_actions(use: ProfileUse) -> Iterator[tuple[Need, str, str]]:
    """Yield the actions to try with their prefixes, lists first: other answers depend on them."""
    if not is_ordinary_bucket(use.bucket.bucket):
        return
    found = []
    for need in find_needs(use):
        by_prefix = need.permission.scope in {"objects", "listing"}
        for prefix in need.targets[:_MAX_PREFIXES] if by_prefix else ("",):
            found += [(need, name, prefix) for name in need.permission.actions if name in _REQUESTS]
    yield from sorted(found, key=lambda needed: needed[1] != _LIST)


def _send(s3: S3Clients, use: ProfileUse, action: str, prefix: str) -> _Answer:
    bucket, request = use.bucket, _REQUESTS[action]
    owner = {"ExpectedBucketOwner": bucket.owner} if bucket.owner else {}
    try:
        client = s3.client(bucket, _TENANT, (prefix,), clock.now(), request.limit)
        method = getattr(client, request.method)
        response = call_storage(method, Bucket=bucket.bucket, **request.params(prefix), **owner)
    except (Malformed, Transient):
        return "unknown"
    if not isinstance(response, ErrorResponse):
        return "allowed"
    if response.denies_access:
        return "denied"
    return "allowed" if response.code in _MISSING else "unknown"
