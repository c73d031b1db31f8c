"""Stand-ins for AWS, and the answers of S3 and STS that each of them gives for the right reason.

moto is a double of AWS's control answers and role sessions. It proves no signature: it accepts
every one, unless it is told to check those of headers. See tests/contract/answers/.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import boto3
import httpx

from tests.support.s3.stores import SERVERS
from worker.dev.embedded_servers import Storage

MOTO = "moto"
DOUBLES = (*SERVERS, MOTO)
_SEAWEEDFS, _MINISTACK = SERVERS

ANSWERS: Mapping[str, tuple[str, ...]] = {
    "NoSuchBucket": (_SEAWEEDFS, _MINISTACK, MOTO),
    "InvalidAccessKeyId": (_SEAWEEDFS, _MINISTACK, MOTO),
    "SignatureDoesNotMatch": (_SEAWEEDFS, MOTO),
    "AccessDenied": (_SEAWEEDFS, MOTO),
    "AccessControlListNotSupported": (_MINISTACK,),
    "KMS.NotFoundException": (),
}
"""The servers that refuse to start a multipart upload with this code; the others start it."""

ROLE_SERVERS = (_MINISTACK, MOTO)
"""The servers with an STS. That of SeaweedFS needs a config file."""

TRUST: dict[str, Any] = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
ALLOW_ALL: dict[str, Any] = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
DENY_ALL: dict[str, Any] = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject"}


def policy_document(statement: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def aws_client(storage: Storage, service: str, **changes: Any) -> Any:
    """Return a client of one of the server's services, with its own keys."""
    options = {
        "region_name": storage.region,
        "endpoint_url": storage.endpoint,
        "aws_access_key_id": storage.access_key,
        "aws_secret_access_key": storage.secret_key,
    }
    return boto3.client(service, **options | changes)


def check_moto_signatures(storage: Storage, *, enabled: bool) -> None:
    """Let moto check keys, signatures of headers and policies from now on, or accept all again."""
    count = b"0" if enabled else b"inf"
    httpx.post(f"{storage.endpoint}/moto-api/reset-auth", content=count).raise_for_status()


def moto_user(storage: Storage, name: str, *statements: Mapping[str, Any]) -> tuple[str, str]:
    """Create a user of moto whose policy has these statements; return its keys."""
    iam = aws_client(storage, "iam")
    iam.create_user(UserName=name)
    for number, statement in enumerate(statements):
        document = policy_document(statement)
        iam.put_user_policy(UserName=name, PolicyName=f"p{number}", PolicyDocument=document)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


class Role:
    """A new role with full access to S3, on a server that has IAM and STS."""

    def __init__(self, storage: Storage, name: str, *, path: str = "/", **trust: Any) -> None:
        self.name, self.storage, self.iam = name, storage, aws_client(storage, "iam")
        document = policy_document(TRUST | trust)
        role = {"RoleName": name, "Path": path, "AssumeRolePolicyDocument": document}
        self.arn: str = self.iam.create_role(**role)["Role"]["Arn"]
        document = policy_document(ALLOW_ALL)
        self.iam.put_role_policy(RoleName=name, PolicyName="s3", PolicyDocument=document)

    def delete(self) -> None:
        """Delete the role, if it exists, so that nobody can assume it."""
        with suppress(self.iam.exceptions.NoSuchEntityException):
            for policy in self.iam.list_role_policies(RoleName=self.name)["PolicyNames"]:
                self.iam.delete_role_policy(RoleName=self.name, PolicyName=policy)
            self.iam.delete_role(RoleName=self.name)
