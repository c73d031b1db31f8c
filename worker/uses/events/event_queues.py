"""SQS queues: receives and deletes messages, and asks whether a queue can be used."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from worker.aws.credentials import create_session, credential_errors
from worker.errors import Transient
from worker.rules.tenant_config import Bucket
from worker.uses.uses_permissions import queue_region

MAX_MESSAGES = 10
"""The largest number of messages in one call (AWS: quotas-messages.html)."""

VISIBILITY_SECONDS = 60
"""The time after which a message comes again that was received and not deleted.

Long enough to ask storage that answers slowly for every object of a batch.
"""

_CONFIG = Config(
    connect_timeout=3,
    read_timeout=30,  # longer than the longest poll
    retries={"total_max_attempts": 2},
    max_pool_connections=32,  # of all threads that read one queue
)
_is_number = re.compile("[0-9]{1,14}").fullmatch
_NO_CODE = re.compile(r"[^A-Za-z0-9._:-]")  # the server writes it, and the log has it
_MAX_CODE = 100

NOT_SQS = "NotSQS"
"""The code of a response that is none of SQS, as the page of a proxy or of a web server."""


class QueueUnusable(Transient):
    """A call to SQS that failed. code is that of SQS, or the name of the error."""

    def __init__(self, code: str) -> None:
        self.code = _NO_CODE.sub("", code[:_MAX_CODE])
        super().__init__(f"SQS: {self.code}")


class QueueMessage(NamedTuple):
    """A message, and how often it was received. receipt is what deletes it.

    sent_at is None if the server does not report when the message was sent.
    """

    message_id: str
    receipt: str
    body: str
    receive_count: int = 1
    sent_at: datetime | None = None


def queue_name(url: str) -> str:
    """Return the name of a queue, for the log."""
    return url.rpartition("/")[2]


def queue_id(url: str) -> str:
    """Return the name of a queue with a digest that distinguishes it from others of that name."""
    return f"{queue_name(url)}:{sha256(url.encode()).hexdigest()[:8]}"


class EventQueue:
    """The queue of a bucket profile, read with its credentials. Threads may share it.

    Its endpoint is that of the URL, and its region the one that the URL names, else the profile's.
    """

    def __init__(self, url: str, profile: Bucket) -> None:
        self.name = queue_name(url)
        self._url = url
        parts = urlsplit(url)
        with credential_errors(profile.profile):
            self._client: Any = create_session(profile.profile).client(
                "sqs",
                region_name=queue_region(url) or profile.region,
                endpoint_url=f"{parts.scheme}://{parts.netloc}",
                config=_CONFIG,
            )

    def receive(self, wait_seconds: int) -> list[QueueMessage]:
        """Return up to ten messages; wait for the first. Raises QueueUnusable."""
        response = _call(
            self._client.receive_message,
            QueueUrl=self._url,
            MaxNumberOfMessages=MAX_MESSAGES,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=VISIBILITY_SECONDS,
            AttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        return [_message(values) for values in response.get("Messages") or ()]

    def delete(self, messages: Sequence[QueueMessage]) -> int:
        """Delete messages, and return how many were not. Raises QueueUnusable."""
        failed = 0
        for start in range(0, len(messages), MAX_MESSAGES):
            entries = [
                {"Id": str(number), "ReceiptHandle": message.receipt}
                for number, message in enumerate(messages[start : start + MAX_MESSAGES])
            ]
            response = _call(self._client.delete_message_batch, QueueUrl=self._url, Entries=entries)
            failed += len(response.get("Failed") or ())
        return failed

    def count_messages(self) -> int:
        """Return about how many messages wait. Raises QueueUnusable."""
        response = _call(
            self._client.get_queue_attributes,
            QueueUrl=self._url,
            AttributeNames=["ApproximateNumberOfMessages"],
        )
        count = _number(response.get("Attributes") or {}, "ApproximateNumberOfMessages")
        if count is None:
            raise QueueUnusable(NOT_SQS)
        return count

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _call(method: Any, **params: Any) -> dict[str, Any]:
    try:
        response: dict[str, Any] = method(**params)
    except ClientError as error:
        raise QueueUnusable(str(error.response.get("Error", {}).get("Code", "unknown"))) from None
    except (BotoCoreError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise QueueUnusable(type(error).__name__) from None  # its text may have the URL
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if "html" in headers.get("content-type", ""):  # which boto takes for an empty response
        raise QueueUnusable(NOT_SQS)
    return response


def _message(values: dict[str, Any]) -> QueueMessage:
    attributes = values.get("Attributes") or {}
    sent = _number(attributes, "SentTimestamp")  # in milliseconds
    return QueueMessage(
        str(values.get("MessageId", "")),
        str(values.get("ReceiptHandle", "")),
        str(values.get("Body", "")),
        _number(attributes, "ApproximateReceiveCount") or 1,
        None if sent is None else datetime.fromtimestamp(sent / 1_000, UTC),
    )


def _number(attributes: Mapping[str, Any], name: str) -> int | None:
    text = str(attributes.get(name, ""))
    return int(text) if _is_number(text) else None


def event_queues(buckets: Sequence[Bucket]) -> Iterator[tuple[str, Bucket]]:
    """Yield the URL of each queue, and the first of the profiles that name it."""
    seen: set[str] = set()
    for bucket in sorted(buckets, key=lambda bucket: bucket.name):
        if bucket.events_queue is not None and bucket.events_queue not in seen:
            seen.add(bucket.events_queue)
            yield bucket.events_queue, bucket
