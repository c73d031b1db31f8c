"""Guardrails for presigned requests, as a policy of AWS Organizations.

Source: AWS Prescriptive Guidance, "Establishing guardrails and monitoring for presigned URLs"
(presigned-url-best-practices), and "SCP syntax", "RCP syntax" of AWS Organizations.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from worker.core.aws_permissions import ProfileUse
from worker.permissions.bucket_documents import deny, longest_lifetime
from worker.permissions.documents import Document, Resource, policy, quote_words

Attachment = Literal["rcp", "scp"]
_TYPES: Mapping[Attachment, str] = {
    "rcp": "RESOURCE_CONTROL_POLICY",
    "scp": "SERVICE_CONTROL_POLICY",
}
MAX_LENGTH = 5_120  # characters of either (AWS: orgs_reference_limits.html)
_PRESIGNED = {"s3:authType": ["REST-QUERY-STRING", "POST"]}
_NO_SERVICE = {"aws:PrincipalIsAWSService": "false"}


class Limits(NamedTuple):
    """Who may presign, and the networks from which presigned requests may come; empty: any."""

    principals: Sequence[str]
    networks: Sequence[str]
    vpcs: Sequence[str]


def guardrails(uses: Sequence[ProfileUse], attachment: Attachment, limits: Limits) -> Document:
    """Return the guardrails with room for the limits of all bucket profiles."""
    statements, reasons = [], {}
    for statement, reason in _statements(longest_lifetime(uses), limits):
        if attachment == "scp":
            del statement["Principal"]  # it applies to the principals of the account
        statements.append(statement)
        reasons[statement["Sid"]] = reason
    name = f"valetkey-{attachment}"
    command = quote_words(
        *("aws", "organizations", "create-policy", "--name", name, "--description"),
        *("Guardrails for presigned requests to S3", "--type", _TYPES[attachment], "--content"),
    )
    return Document(
        name,
        "Guardrails for the organizational unit that has the buckets"
        + (": they limit all requests to its buckets." if attachment == "rcp" else "")
        + (": they limit all requests of its users and roles." if attachment == "scp" else ""),
        policy(statements),
        reasons,
        f"{command} {{file}}",
        Resource("aws_organizations_policy", {"name": name, "type": _TYPES[attachment]}, "content"),
    )


def _statements(lifetime: int, limits: Limits) -> Iterator[tuple[dict[str, Any], str]]:
    yield (
        deny(
            "TlsOnly", "*", _all_of("BoolIfExists", {"aws:SecureTransport": "false"}, _NO_SERVICE)
        ),
        "all features: a link that is sent in the clear can be read on its way.",
    )
    yield (
        deny("NoSignatureVersion2", "*", {"StringEquals": {"s3:signatureversion": "AWS"}}),
        "all features: the older version signs no headers.",
    )
    if lifetime:
        yield (
            deny(
                "NoOldSignatures",
                "*",
                {"NumericGreaterThan": {"s3:signatureAge": str(lifetime * 1_000)}},
            ),
            f"links and forms: no policy allows more than {lifetime:,} seconds (in milliseconds).",
        )
    if limits.principals:
        yield (
            deny(
                "OnlyValetkeyPresigns",
                "*",
                {
                    "StringEquals": _PRESIGNED,
                    "ArnNotLikeIfExists": {"aws:PrincipalArn": list(limits.principals)},
                    "BoolIfExists": _NO_SERVICE,
                },
            ),
            "links and forms: no log has those of others. S3's console presigns as well.",
        )
    if limits.networks or limits.vpcs:
        yield (
            deny("SourceNetwork", "*", _elsewhere(limits)),
            "links and forms: whoever has one can use it only from these networks.",
        )


def _all_of(operator: str, *conditions: Mapping[str, Any]) -> dict[str, Any]:
    return {operator: {name: value for item in conditions for name, value in item.items()}}


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
