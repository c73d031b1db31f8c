"""The IAM policies of the service's credentials, and the trust policies of its roles."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from worker.errors import Malformed
from worker.permissions.documents import Document, Terraform, slug, words
from worker.rules.role_session import policy_document
from worker.shared.aws_permissions import Need, ProfileUse, find_needs

_MANAGED_LENGTH, _ROLE_LENGTH = 6_144, 10_240  # characters (AWS: reference_iam-quotas.html)
_FEW_TARGETS = 20  # a permission for no more prefixes is never widened


class _Credentials(NamedTuple):
    """Credentials that need permissions: a role, or an AWS profile of the workers."""

    role_arn: str | None
    aws_profile: str = "default"

    @property
    def role(self) -> str:
        return (self.role_arn or "").rpartition("/")[2]

    @property
    def account(self) -> str:
        return (self.role_arn or ":::::").split(":")[4]

    @property
    def name(self) -> str:
        return f"role-{self.account}-{self.role}" if self.role else f"workers-{self.aws_profile}"


def iam_documents(
    uses: Iterable[ProfileUse], worker_arn: str | None = None, names: Sequence[str] = ()
) -> Iterator[Document]:
    """Yield the policy of each role and AWS profile, after the trust policy of a role.

    With names, only of those that these bucket profiles use: a policy is for all profiles that use
    it, as it replaces the earlier one. Without the ARN of the workers, there are no trust policies.
    Raises Malformed if a policy is too long for AWS.
    """
    needs: defaultdict[_Credentials, list[Need]] = defaultdict(list)
    for use in uses:
        for need in find_needs(use):
            needs[_credentials(need)].append(need)
    for credentials, held in needs.items():
        if names and not any(need.bucket.name in names for need in held):
            continue
        if credentials.role and worker_arn:
            yield _trust(credentials, held, worker_arn)
        yield _permissions(credentials, held)


def _credentials(need: Need) -> _Credentials:
    bucket = need.bucket
    if need.permission.principal == "signer" and bucket.role_arn:
        return _Credentials(bucket.role_arn)
    return _Credentials(None, bucket.profile or "default")


def _permissions(credentials: _Credentials, needs: Sequence[Need]) -> Document:
    limit = _ROLE_LENGTH if credentials.role else _MANAGED_LENGTH
    needs, is_wide = _fit(needs, limit, credentials.name)
    statements, reasons = _statements(needs)
    wide = " Permissions for many prefixes are for whole buckets: it would be too long." * is_wide
    if credentials.role:
        name = "valetkey"
        command = words("aws", "iam", "put-role-policy", "--role-name", credentials.role)
        command += f" --policy-name {name} --policy-document {{file}}"
        title = (
            f"The role {credentials.role} of the account {credentials.account}. It replaces the"
            " role's inline policy valetkey."
        )
        arguments = {"name": name, "role": credentials.role}
        terraform = Terraform("aws_iam_role_policy", arguments, "policy")
    else:
        name = slug(f"valetkey-{credentials.name}")
        command = f"aws iam create-policy --policy-name {name} --policy-document {{file}}"
        title = (
            f"The workers' credentials, AWS profile {credentials.aws_profile}: attach the policy to"
            " their user or role. If it exists, use create-policy-version --set-as-default."
        )
        terraform = Terraform("aws_iam_policy", {"name": name}, "policy")
    content = policy_document(*statements)
    return Document(credentials.name, title + wide, content, reasons, command, terraform)


def _fit(needs: Sequence[Need], limit: int, name: str) -> tuple[Sequence[Need], bool]:
    """Widen permissions for many prefixes to whole buckets if the policy is too long.

    Raises Malformed if it is too long even so.
    """
    is_wide = _length(needs) > limit
    if is_wide:
        needs = [need._replace(targets=("",)) if _has_many(need) else need for need in needs]
    length = _length(needs)
    if length > limit:
        raise Malformed(
            f"the policy of {name} has {length:,} characters, and AWS allows {limit:,}: give some"
            " bucket profiles a role or an AWS profile of their own"
        )
    return needs, is_wide


def _has_many(need: Need) -> bool:
    permission = need.permission
    is_ours = permission.scope == "objects" and callable(permission.find)
    return is_ours and len(need.targets) > _FEW_TARGETS


def _length(needs: Sequence[Need]) -> int:
    document = policy_document(*_statements(needs)[0])
    return len(json.dumps(document, separators=(",", ":"), ensure_ascii=False))


def _statements(needs: Sequence[Need]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the statements for needs, and the reason of each by its Sid."""
    has_many_profiles = len({need.bucket.name for need in needs}) > 1
    statements, reasons = [], dict[str, str]()
    for need in needs:
        sid = need.permission.sid
        if has_many_profiles:
            sid += "".join(filter(str.isalnum, need.bucket.name.title()))
        while sid in reasons:  # of the profiles a-b and ab
            sid += "X"
        statements.append(need.statement() | {"Sid": sid})
        reasons[sid] = f"{need.permission.feature}: {need.permission.reason}.".replace("`", "")
    return statements, reasons


def _trust(credentials: _Credentials, needs: Sequence[Need], worker_arn: str) -> Document:
    external_ids = {need.bucket.external_id for need in needs}
    # One profile without an external id, and the condition would stop it.
    ids = sorted(filter(None, external_ids)) if None not in external_ids else []
    condition: Mapping[str, Any] = {"StringEquals": {"sts:ExternalId": ids}}
    statement = {
        "Sid": "Workers",
        "Effect": "Allow",
        "Principal": {"AWS": worker_arn},
        "Action": "sts:AssumeRole",
        **({"Condition": condition} if ids else {}),
    }
    seconds = max(need.bucket.role_seconds for need in needs)
    role = credentials.role
    return Document(
        f"trust-{credentials.account}-{role}",
        f"The trust policy of the role {role} of the account {credentials.account}. It replaces the"
        f" present one. The role needs a maximum session of {seconds:,} seconds or more.",
        policy_document(statement),
        {"Workers": "role sessions: only the workers may assume the role."},
        words("aws", "iam", "update-assume-role-policy", "--role-name", role)
        + " --policy-document {file}",
        # A whole role would reset what else it has, such as its permissions boundary.
        Terraform(None, {}, f"assume_role_policy_{slug(credentials.name)}"),
    )
