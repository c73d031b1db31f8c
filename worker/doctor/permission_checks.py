"""The checks of `doctor` that try what the credentials may do, by requests that change nothing."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.aws.storage_calls import call_storage
from worker.core.aws_permissions import Need, ProfileUse, find_needs
from worker.core.role_session import SessionLimit, cleanup_session, listing_session
from worker.core.storage_errors import ErrorResponse
from worker.core.tenant_config import is_ordinary_bucket
from worker.doctor.checks import Check, State
from worker.errors import Malformed, StorageSilent, Transient

_TENANT = "doctor"  # in the name of a role's session
_MAX_PREFIXES = 10  # of each permission, as a service may have thousands of tenants
_NO_UPLOAD = "valetkey-doctor"
_DENIED = "AccessDenied"
_LIST, _GET = "s3:ListBucket", "s3:GetObject"
_GRAVE = {_GET, "s3:PutObject"}  # without them, grants are issued that storage refuses


class _Trial(NamedTuple):
    """A request that needs one action.

    method: of boto3's client. params: beside the bucket; names with a prefix are built from it.
    limit: the session of a role that may do it.
    """

    method: str
    params: Callable[[str], Mapping[str, Any]]
    limit: SessionLimit | None = None


def _key(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(16)}"


# Storage decides on the permission before it looks for the object or upload, which do not exist.
_TRIALS: Mapping[str, _Trial] = {
    _LIST: _Trial("list_objects_v2", lambda p: {"Prefix": p, "MaxKeys": 1}, listing_session),
    _GET: _Trial("get_object", lambda p: {"Key": _key(p)}),
    "s3:PutObject": _Trial(
        "upload_part", lambda p: {"Key": _key(p), "UploadId": _NO_UPLOAD, "PartNumber": 1}
    ),
    "s3:AbortMultipartUpload": _Trial(
        "abort_multipart_upload", lambda p: {"Key": _key(p), "UploadId": _NO_UPLOAD}
    ),
    "s3:ListBucketMultipartUploads": _Trial(
        "list_multipart_uploads", lambda p: {"Prefix": p, "MaxUploads": 1}, cleanup_session
    ),
}


def check_permissions(s3: S3Clients, use: ProfileUse) -> Check | None:
    """Name the actions that storage denies, by feature; None if nothing could be tried."""
    name = use.bucket.name
    try:
        tried = _try_all(s3, use)
    except (Malformed, Transient):
        return None  # the check of the bucket names what is wrong, or storage answers no more
    if not tried:
        return None
    lacking = {action: features for action, features in tried.items() if features}
    if not lacking:
        text = f"{name}: storage denies none of the {len(tried)} requests that were tried"
        return Check("permissions", "ok", text)
    text = "; ".join(f"{action} ({', '.join(features)})" for action, features in lacking.items())
    state: State = "fail" if any(action.split()[0] in _GRAVE for action in lacking) else "warn"
    hint = f"python -m worker permissions iam --profile {name}"
    return Check("permissions", state, f"{name}: the credentials lack {text}", hint)


def _try_all(s3: S3Clients, use: ProfileUse) -> dict[str, list[str]]:
    """Return the features that are denied by each action and prefix that was tried.

    Storage answers 403 for a missing object to credentials that may not list: reads are not tried
    then. Raises Malformed and Transient.
    """
    allowed: dict[tuple[str, str], bool] = {}
    denied: dict[str, list[str]] = {}
    for need, action, prefix in _trials(use):
        if action == _GET and not allowed.get((_LIST, "")):
            continue
        if (action, prefix) not in allowed:
            allowed[action, prefix] = _is_allowed(s3, use, _TRIALS[action], prefix)
        features = denied.setdefault(f"{action} below {prefix}" if prefix else action, [])
        if not allowed[action, prefix]:
            features.append(need.permission.feature)
    return denied


def _trials(use: ProfileUse) -> Iterator[tuple[Need, str, str]]:
    """Yield the actions to try with their prefixes, lists first: other answers depend on them."""
    if not is_ordinary_bucket(use.bucket.bucket):
        return
    found = []
    for need in find_needs(use):
        by_prefix = need.permission.scope in {"objects", "listing"}
        for prefix in need.targets[:_MAX_PREFIXES] if by_prefix else ("",):
            found += [
                (need, action, prefix) for action in need.permission.actions if action in _TRIALS
            ]
    yield from sorted(found, key=lambda trial: trial[1] != _LIST)


def _is_allowed(s3: S3Clients, use: ProfileUse, trial: _Trial, prefix: str) -> bool:
    bucket = use.bucket
    client = s3.client(bucket, _TENANT, (prefix,), clock.now(), trial.limit)
    params = {"Bucket": bucket.bucket, **trial.params(prefix)}
    try:
        response = call_storage(getattr(client, trial.method), **params)
    except StorageSilent:
        raise
    except Transient:
        return True  # an error of the server is no denial
    return not (isinstance(response, ErrorResponse) and response.code == _DENIED)
