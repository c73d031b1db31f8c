"""Ways to end a grant before it expires, from the narrowest effect to the widest."""

from collections.abc import Iterator
from datetime import datetime

from worker.core.links.verdicts import AuditedGrant, Signing

_MULTIPART = {"multipart", "parts"}
_ENDED = {"aborted", "closed"}
_SESSION_PREFIX = "ASIA"  # AWS: reference_identifiers.html, "Understanding unique ID prefixes"


def is_alive(grant: AuditedGrant, now: datetime) -> bool:
    """Return whether storage still accepts the grant, as far as the audit log knows.

    The log does not know whether the revocation of a grant was successful.
    """
    has_upload = grant.kind != "multipart" or grant.upload not in _ENDED
    return grant.code is None and grant.expires_at > now and has_upload


def ways_to_end(grant: AuditedGrant, signing: Signing, now: datetime) -> list[str]:
    """Return what an operator can do. Empty if the grant is not alive."""
    return list(_ways(grant, signing)) if is_alive(grant, now) else []


def _ways(grant: AuditedGrant, signing: Signing) -> Iterator[str]:
    if grant.kind in _MULTIPART:
        yield (
            "abort the upload: `valetkey cancel` of the multipart batch with --abort-uploads, or"
            " AbortMultipartUpload; no part and no completion is accepted then"
        )
    elif grant.kind == "download":
        yield "delete or move the object: ends every link to it"
    if grant.provider in {"aws", "other"} and not _is_access_point(grant):
        yield (
            f"`python -m worker revoke --grant {grant.tenant}/{grant.grant}`: denies this key in"
            " the bucket policy, which ends every link to it, and signs this grant no more"
        )
    yield from _ways_of_credentials(grant, signing)
    if grant.kind not in _MULTIPART:
        yield "`valetkey cancel` does not end it: only what is not issued yet is refused then"


def _is_access_point(grant: AuditedGrant) -> bool:
    return any(name.startswith("arn:") for name in grant.real_buckets)


def _ways_of_credentials(grant: AuditedGrant, signing: Signing) -> Iterator[str]:
    key = f"access key {signing.access_key}" if signing.access_key else "access key that signed"
    if grant.provider is None:
        yield f"the bucket profile was removed: deactivate the {key}, or end its role's sessions"
    elif grant.has_role:
        name = grant.tenant.partition("~")[0]
        yield (
            f"deny the tenant's sessions in the bucket policy (aws:userid like *:valetkey-{name}):"
            " ends every link of the tenant to the bucket, new ones too"
        )
        yield (
            "deny the role's sessions from before now (aws:TokenIssueTime), then restart the"
            " workers: ends every link of the role"
        )
    elif grant.provider == "aws" and (signing.access_key or "").startswith(_SESSION_PREFIX):
        yield (
            f"revoke the sessions of the role to which {key} belongs, then restart the workers:"
            " ends every link that they signed"
        )
    else:
        yield f"deactivate or delete the {key}: ends every link that it signed"
