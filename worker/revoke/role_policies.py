"""Puts a policy of our own on a role, which ends its older sessions, and removes it again.

Sources: AWS, "Revoke IAM role temporary security credentials" (id_roles_use_revoke-sessions.html),
and "AWS global condition context keys" (reference_policies_condition-keys.html).
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Any, NamedTuple

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from valetkey.units import format_utc
from worker.aws.credentials import create_session, credential_errors
from worker.aws.storage_calls import read_error_response
from worker.errors import Malformed, Transient
from worker.revoke.revoke_settings import RevokeSettings
from worker.rules.role_session import policy_document
from worker.rules.tenant_config import Bucket

POLICY_NAME = "ValetkeyRevokeOlderSessions"
LONGEST_SESSION = timedelta(hours=12)
"""The longest duration of a role's session (AWS: API_AssumeRole.html)."""


def older_sessions_policy(sessions_from: datetime) -> str:
    """Return the policy that denies everything to the sessions from before a time.

    The time must have whole seconds, as times of issue have.
    """
    condition = {"DateLessThan": {"aws:TokenIssueTime": format_utc(sessions_from)}}
    statement = {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition}
    return json.dumps(policy_document(statement), separators=(",", ":"))


def read_sessions_from(policy: Any) -> datetime:
    """Return the time in a policy of ours, as JSON or its values. Raises Malformed."""
    try:
        document = json.loads(policy) if isinstance(policy, str) else policy
        (statement,) = document["Statement"]
        text = statement["Condition"]["DateLessThan"]["aws:TokenIssueTime"]
        moment = datetime.fromisoformat(text).astimezone(UTC)
        is_ours = document == json.loads(older_sessions_policy(moment))
    except (ValueError, TypeError, KeyError, RecursionError):
        is_ours = False
    if not is_ours:
        text = f"the role's policy {POLICY_NAME} is not the one that this service writes: remove it"
        raise Malformed(text)
    return moment


_CONFIG = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 2})


class RoleState(NamedTuple):
    """The time in our policy on a role, None without a policy, and the time of AWS's clock."""

    sessions_from: datetime | None
    now: datetime


class RolePolicies:
    """Reads and changes our policy on the roles of bucket profiles.

    Create it after forking; threads may share it. It uses the credentials of the AWS profile, not
    those of the role. iam_endpoint is None for AWS. All methods raise Transient and Malformed.
    """

    def __init__(self, iam_endpoint: str | None = None) -> None:
        self._endpoint = iam_endpoint
        self._lock = Lock()
        self._clients: dict[tuple[str | None, str], Any] = {}

    def read(self, bucket: Bucket, role_arn: str) -> RoleState:
        """Return the state of a role that a bucket profile has."""
        client, name = self._client(bucket), role_arn.rpartition("/")[2]
        role = _call(client.get_role, RoleName=name)
        # IAM looks for the name in the account of the credentials, whatever account the ARN names.
        if role is None or role["Role"]["Arn"] != role_arn:
            raise Malformed(f"{role_arn} is not in the account of the bucket profile's credentials")
        response = _call(client.get_role_policy, RoleName=name, PolicyName=POLICY_NAME)
        moment = None if response is None else read_sessions_from(response["PolicyDocument"])
        return RoleState(moment, _read_clock(role))

    def end_sessions(self, bucket: Bucket, role_arn: str, sessions_from: datetime) -> None:
        """End the sessions of a role from before a time; a later time in the policy stays."""
        found = self.read(bucket, role_arn).sessions_from
        if found is None or found < sessions_from:
            _call(
                self._client(bucket).put_role_policy,
                RoleName=role_arn.rpartition("/")[2],
                PolicyName=POLICY_NAME,
                PolicyDocument=older_sessions_policy(sessions_from),
            )

    def remove(self, bucket: Bucket, role_arn: str, sessions_from: datetime) -> None:
        """Remove our policy from a role, unless another revocation has put a later time into it."""
        found = self.read(bucket, role_arn).sessions_from
        if found is not None and found <= sessions_from:
            name = role_arn.rpartition("/")[2]
            client = self._client(bucket)
            _call(client.delete_role_policy, RoleName=name, PolicyName=POLICY_NAME)

    def _client(self, bucket: Bucket) -> Any:
        key = bucket.profile, bucket.region
        with self._lock:
            if key not in self._clients:
                with credential_errors(bucket.profile):
                    self._clients[key] = create_session(bucket.profile).client(
                        "iam",
                        region_name=bucket.region,
                        endpoint_url=self._endpoint,
                        config=_CONFIG,
                    )
            return self._clients[key]


def _call(method: Callable[..., Any], **params: str) -> dict[str, Any] | None:
    """Call a method of IAM, and return its response, or None if it knows no such role or policy."""
    try:
        response: dict[str, Any] = method(**params)
    except ClientError as error:
        answer = read_error_response(error)
        if answer.code == "NoSuchEntity":
            return None
        if answer.is_transient or answer.code == "ConcurrentModification":
            raise Transient(f"IAM cannot do it now: {answer.words}") from None
        raise Malformed(f"IAM refuses the change of the role's policy: {answer.words}") from None
    except (BotoCoreError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Transient(f"IAM does not answer: {type(error).__name__}") from None
    return response


def _read_clock(response: dict[str, Any]) -> datetime:
    """Return the time at which AWS sent a response, in whole seconds."""
    try:
        text = response["ResponseMetadata"]["HTTPHeaders"]["date"]
        return parsedate_to_datetime(text).astimezone(UTC)
    except (KeyError, ValueError, TypeError):
        raise Transient("IAM does not report its time") from None


def role_policies() -> RolePolicies:
    """Return the client of the IAM endpoint that the settings name."""
    return RolePolicies(RevokeSettings().iam_endpoint)
