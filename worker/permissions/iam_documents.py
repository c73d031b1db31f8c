"""The IAM policies of the service's credentials, and the trust policies of its roles."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from worker.core.aws_permissions import Need, ProfileUse, find_needs
from worker.permissions.documents import Document, Resource, policy, quote_words

MAX_POLICY_LENGTH = 6_144
"""The most characters of a managed policy, without spaces (AWS: reference_iam-quotas.html)."""

_WHOLE_BUCKET = ("",)


class _Holder(NamedTuple):
    """The credentials that need permissions: a role, or an AWS profile of the workers."""

    role_arn: str | None
    aws_profile: str | None

    @property
    def role(self) -> str | None:
        return self.role_arn and self.role_arn.rpartition("/")[2]

    @property
    def name(self) -> str:
        return f"role-{self.role}" if self.role else f"workers-{self.aws_profile or 'default'}"


def iam_documents(uses: Iterable[ProfileUse], worker_arn: str | None) -> Iterator[Document]:
    """Yield the policy of each role and AWS profile, after the trust policy of a role.

    The trust policy names the workers: without their ARN, there is none.
    """
    needs: defaultdict[_Holder, list[Need]] = defaultdict(list)
    trusts: dict[_Holder, Document] = {}
    for use in uses:
        for need in find_needs(use):
            holder = _holder(need)
            needs[holder].append(need)
            if holder.role and worker_arn and holder not in trusts:
                trusts[holder] = _trust(holder, use.bucket.external_id, worker_arn)
    for holder, held in needs.items():
        if holder in trusts:
            yield trusts[holder]
        yield _permissions(holder, held)


def _holder(need: Need) -> _Holder:
    bucket = need.bucket
    if need.permission.holder == "signer" and bucket.role_arn:
        return _Holder(bucket.role_arn, None)
    return _Holder(None, bucket.profile)


def _permissions(holder: _Holder, needs: Sequence[Need]) -> Document:
    statements, reasons = _statements(needs)
    widened = ""
    if _length(statements) > MAX_POLICY_LENGTH:
        statements, reasons = _statements([_widen(need) for need in needs])
        widened = (
            f" It is for whole buckets: with prefixes it has over {MAX_POLICY_LENGTH:,} bytes."
        )
    title = (
        f"The role {holder.role}, which signs."
        if holder.role
        else f"The workers' credentials: AWS profile {holder.aws_profile or 'default'}."
    )
    name = "valetkey" if holder.role else f"valetkey-{holder.name}"
    if holder.role:
        command = quote_words(
            *("aws", "iam", "put-role-policy", "--role-name", holder.role),
            *("--policy-name", name, "--policy-document"),
        )
        resource = Resource("aws_iam_role_policy", {"name": name, "role": holder.role}, "policy")
    else:
        command = quote_words(
            *("aws", "iam", "create-policy", "--policy-name", name, "--policy-document")
        )
        resource = Resource("aws_iam_policy", {"name": name}, "policy")
        title += " Attach the policy to their user or role."
    return Document(
        holder.name,
        title + widened,
        policy(statements),
        reasons,
        f"{command} {{file}}",
        resource,
    )


def _statements(needs: Sequence[Need]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the statements for needs, and the reason of each by its Sid."""
    has_many_profiles = len({need.bucket.name for need in needs}) > 1
    statements, reasons = [], {}
    for need in needs:
        sid = need.permission.sid
        if has_many_profiles:
            sid += "".join(filter(str.isalnum, need.bucket.name.title()))
        while sid in reasons:  # a-b and ab
            sid += "X"
        statements.append(need.statement() | {"Sid": sid})
        reasons[sid] = f"{need.permission.feature.replace('`', '')}: {need.permission.reason}."
    return statements, {sid: reason.replace("`", "") for sid, reason in reasons.items()}


def _widen(need: Need) -> Need:
    by_prefix = need.permission.scope in {"objects", "listing"}
    return need._replace(targets=_WHOLE_BUCKET) if by_prefix else need


def _length(statements: Sequence[Mapping[str, Any]]) -> int:
    return len(json.dumps(policy(statements), separators=(",", ":")))


def _trust(holder: _Holder, external_id: str | None, worker_arn: str) -> Document:
    condition = {"StringEquals": {"sts:ExternalId": external_id}} if external_id else None
    statement = {
        "Sid": "Workers",
        "Effect": "Allow",
        "Principal": {"AWS": worker_arn},
        "Action": "sts:AssumeRole",
        **({"Condition": condition} if condition else {}),
    }
    path, _, role = str(holder.role_arn).partition(":role")[2].rpartition("/")
    return Document(
        f"trust-{role}",
        f"The trust policy of the role {role}.",
        policy([statement]),
        {"Workers": "role sessions: only the workers may assume the role."},
        quote_words("aws", "iam", "update-assume-role-policy", "--role-name", role)
        + " --policy-document {file}",
        Resource("aws_iam_role", {"name": role, "path": f"{path}/"}, "assume_role_policy"),
    )
