"""Guardrails for presigned requests, as a policy of AWS Organizations.

Source: AWS Prescriptive Guidance, "Establishing guardrails and monitoring for presigned URLs"
(presigned-url-best-practices), and "SCP syntax", "RCP syntax" of AWS Organizations.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from worker.errors import Malformed
from worker.permissions.bucket_documents import (
    TLS_REASON,
    VERSION_2,
    VERSION_REASON,
    deny,
    longest_lifetime,
    old_signatures,
)
from worker.permissions.documents import Document, Terraform, words
from worker.rules.role_session import policy_document
from worker.shared.aws_permissions import ProfileUse
from worker.shared.limited_sessions import PRESIGNED

Attachment = Literal["rcp", "scp"]
_TYPES: Mapping[Attachment, str] = {
    "rcp": "RESOURCE_CONTROL_POLICY",
    "scp": "SERVICE_CONTROL_POLICY",
}
_MAX_LENGTH = 5_120  # characters of either (AWS: orgs_reference_limits.html)
_PRESIGNED = {"s3:authType": PRESIGNED}
_NO_SERVICE = {"aws:PrincipalIsAWSService": "false"}


class Limits(NamedTuple):
    """Who may presign, and the networks from which presigned requests may come; empty: any."""

    principals: Sequence[str]
    networks: Sequence[str]
    vpcs: Sequence[str]


_PLACES: Mapping[Attachment, str] = {
    "rcp": "of the buckets' accounts: they limit all requests to the buckets there",
    "scp": "of the signers' accounts: they limit all requests of users and roles there",
}


def guardrails(uses: Sequence[ProfileUse], attachment: Attachment, limits: Limits) -> Document:
    """Return the guardrails with room for the limits of all bucket profiles.

    Raises Malformed if they are too long for AWS.
    """
    statements, reasons = [], {}
    for statement, reason in _statements(longest_lifetime(uses), limits):
        if attachment == "scp":
            del statement["Principal"]  # it applies to the principals of the account
        statements.append(statement)
        reasons[statement["Sid"]] = reason
    content = policy_document(*statements)
    length = len(json.dumps(content, indent=2))
    if length > _MAX_LENGTH:
        raise Malformed(
            f"the policy has {length:,} characters, and AWS allows {_MAX_LENGTH:,}: name fewer"
            " principals or networks"
        )
    name = f"valetkey-{attachment}"
    command = words(
        *("aws", "organizations", "create-policy", "--name", name, "--description"),
        *("Guardrails for presigned requests to S3", "--type", _TYPES[attachment], "--content"),
    )
    return Document(
        name,
        f"Guardrails for the organizational unit {_PLACES[attachment]}. Attach the policy with"
        " attach-policy; it does not limit the management account.",
        content,
        reasons,
        f"{command} {{file}}",
        Terraform(
            "aws_organizations_policy", {"name": name, "type": _TYPES[attachment]}, "content"
        ),
    )


def _statements(lifetime: int, limits: Limits) -> Iterator[tuple[dict[str, Any], str]]:
    is_plain = {"BoolIfExists": {"aws:SecureTransport": "false", **_NO_SERVICE}}
    yield deny("TlsOnly", "*", is_plain), TLS_REASON
    yield deny("NoSignatureVersion2", "*", VERSION_2), VERSION_REASON
    if lifetime:
        is_old, reason = old_signatures(lifetime)
        yield deny("NoOldSignatures", "*", is_old), reason
    if limits.principals:
        is_other = {
            "StringEquals": _PRESIGNED,
            "ArnNotLikeIfExists": {"aws:PrincipalArn": list(limits.principals)},
            "BoolIfExists": _NO_SERVICE,
        }
        reason = "links and forms: no log has those that others sign. S3's console needs them."
        yield deny("OnlyValetkeyPresigns", "*", is_other), reason
    if limits.networks or limits.vpcs:
        reason = "links and forms: whoever has one can use it only from these networks."
        yield deny("SourceNetwork", "*", _elsewhere(limits)), reason


def _elsewhere(limits: Limits) -> dict[str, Any]:
    condition: dict[str, Any] = {
        "StringEquals": _PRESIGNED,
        "BoolIfExists": {"aws:ViaAWSService": "false", **_NO_SERVICE},
    }
    if limits.networks:
        condition["NotIpAddressIfExists"] = {"aws:SourceIp": list(limits.networks)}
    if limits.vpcs:
        condition["StringNotEqualsIfExists"] = {"aws:SourceVpc": list(limits.vpcs)}
    return condition
