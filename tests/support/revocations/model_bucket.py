"""A bucket in memory that enforces its policy, as AWS or as servers that ignore conditions."""

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from botocore.exceptions import ClientError

from worker.aws.s3_clients import S3Clients
from worker.rules.tenant_config import Bucket

MAX_POLICY_BYTES = 20_480  # of S3
_TOKENS = re.compile(r"\$\{([*?$])\}|([*?])|([^*?$]+|\$)", re.DOTALL)

Fault = Literal["none", "refuse", "away", "kill_before", "kill_after"]


class Killed(BaseException):
    """The process is killed in the middle of a request."""


class ModelBucket:
    """A boto3 client of one bucket. fault is what the next changes of the policy meet."""

    def __init__(self, clock: Callable[[], datetime], *, is_aws: bool) -> None:
        self.policy: str | None = None
        self.fault: Fault = "none"
        self._clock = clock
        self.is_aws = is_aws

    def get_bucket_policy(self, **_: str) -> dict[str, str]:
        if self.fault == "away":
            raise _error(503, "SlowDown")
        if self.policy is None:
            raise _error(404, "NoSuchBucketPolicy")
        return {"Policy": self.policy}

    def put_bucket_policy(self, *, Policy: str, **_: str) -> dict[str, str]:  # noqa: N803 - boto3's own
        self._change(Policy)
        return {}

    def delete_bucket_policy(self, **_: str) -> dict[str, str]:
        self._change(None)
        return {}

    def _change(self, policy: str | None) -> None:
        if self.fault == "refuse":
            raise _error(403, "AccessDenied")
        if self.fault == "away":
            raise _error(503, "SlowDown")
        if self.fault == "kill_before":
            raise Killed
        if policy is not None and len(policy.encode()) > MAX_POLICY_BYTES:
            raise _error(400, "PolicyTooLarge")
        self.policy = policy
        if self.fault == "kill_after":
            raise Killed

    @property
    def statements(self) -> list[dict[str, Any]]:
        """The statements of the policy, which another program may set."""
        found: list[dict[str, Any]] = json.loads(self.policy)["Statement"] if self.policy else []
        return found

    @statements.setter
    def statements(self, statements: list[dict[str, Any]]) -> None:
        policy = {"Version": "2012-10-17", "Statement": statements}
        self.policy = json.dumps(policy, ensure_ascii=False) if statements else None

    def denies(self, object_key: str, action: str = "s3:GetObject") -> bool:
        """Return true if the policy denies a presigned request for an object."""
        return any(self._denies(each, object_key, action) for each in self.statements)

    def _denies(self, statement: dict[str, Any], object_key: str, action: str) -> bool:
        if statement["Effect"] != "Deny" or action not in statement["Action"]:
            return False
        condition = statement.get("Condition")
        if condition:
            end = condition["DateLessThan"]["aws:CurrentTime"]
            if not self.is_aws or self._clock() >= datetime.fromisoformat(end):
                return False
        arn = f"arn:aws:s3:::valetkey-demo/{object_key}"
        return any(self._pattern(each).fullmatch(arn) for each in statement["Resource"])

    def _pattern(self, resource: str) -> re.Pattern[str]:
        parts = []
        for escaped, wildcard, literal in _TOKENS.findall(resource):
            if wildcard:
                parts.append(".*" if wildcard == "*" else ".")
            elif escaped and not self.is_aws:
                parts.append(rf"\$\{{{'.*' if escaped == '*' else '.'}\}}")
            else:
                parts.append(re.escape(escaped or literal))
        return re.compile("".join(parts), re.DOTALL)


class ModelClients(S3Clients):
    """Signs as always; calls go to the bucket in memory."""

    def __init__(self, bucket: ModelBucket) -> None:
        super().__init__()
        self._bucket = bucket

    def client(self, *_: Any, **__: Any) -> Any:
        return self._bucket

    def is_aws(self, bucket: Bucket) -> bool:  # noqa: ARG002 - there is one
        return self._bucket.is_aws


def policy_bytes(statements: list[dict[str, Any]]) -> int:
    """Return the size of a policy with these statements."""
    policy = {"Version": "2012-10-17", "Statement": statements}
    return len(json.dumps(policy, separators=(",", ":"), ensure_ascii=False).encode())


def key_of(url: str) -> str:
    """Return the object key of a link in path style."""
    return unquote(urlsplit(url).path).removeprefix("/valetkey-demo/")


def _error(status: int, code: str) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": ""}}
    response["ResponseMetadata"] = {"HTTPStatusCode": status}
    return ClientError(response, "PutBucketPolicy")
