"""Event notifications as storage sends them, and the queues that they are in."""

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

from tests.support.servers.waiting import wait_until
from worker.dev.embedded_servers import Storage

POLICY = {
    "Effect": "Allow",
    "Principal": {"Service": "s3.amazonaws.com"},
    "Action": "sqs:SendMessage",
}


def aws_record(
    object_key: str, at: datetime, event: str = "ObjectCreated:Put", **stored: Any
) -> Any:
    """Return a record in the form of AWS; stored are fields of the object."""
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "us-east-1",
        "eventTime": at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "eventName": event,
        "userIdentity": {"principalId": "AWS:AIDAEXAMPLE"},
        "requestParameters": {"sourceIPAddress": "198.51.100.7"},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "valetkey",
            "bucket": {"name": "valetkey-demo", "arn": "arn:aws:s3:::valetkey-demo"},
            "object": {
                "key": quote_plus(object_key, safe="/"),
                "size": 10,
                "eTag": "0123456789abcdef",
                "sequencer": "0055AED6DCD90281E5",
                **stored,
            },
        },
    }


def minio_record(key: str, at: datetime, grant_id: str | None, **stored: Any) -> Any:
    """Return a record in the form of MinIO, which has the object's metadata."""
    metadata = {"content-type": "image/png"}
    if grant_id is not None:
        metadata["X-Amz-Meta-Grant-Id"] = grant_id
    details = {"userMetadata": metadata, "contentType": "image/png", "sequencer": "17A0", **stored}
    record = aws_record(key, at, "s3:ObjectCreated:Put", **details)
    record["s3"]["object"]["key"] = quote_plus(key)
    source = {"host": "198.51.100.7", "port": "", "userAgent": "MinIO (linux; amd64)"}
    return record | {"eventVersion": "2.0", "eventSource": "minio:s3", "source": source}


def ceph_record(key: str, at: datetime, grant_id: str | None, **stored: Any) -> Any:
    """Return a record in the form of Ceph's gateway, which encodes no keys."""
    metadata = [{"key": "x-amz-meta-grant-id", "val": grant_id}] if grant_id else []
    record = aws_record(key, at, "ObjectCreated:Put", metadata=metadata, tags=[], **stored)
    record["s3"]["object"] |= {"key": key, "sequencer": "F7E6D75DC742D108", "versionId": ""}
    return record | {"eventVersion": "2.2", "eventSource": "ceph:s3"}


def body(*records: Any) -> str:
    """Return the body of a message with these records."""
    return json.dumps({"Records": records})


class TestQueue:
    """A queue of MiniStack's SQS, to which its S3 sends the notifications of a bucket."""

    __test__ = False

    def __init__(self, sqs: Any) -> None:
        self.sqs = sqs
        self.url: str = sqs.create_queue(QueueName=f"events-{uuid.uuid4().hex}")["QueueUrl"]
        attributes = sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        self.arn: str = attributes["Attributes"]["QueueArn"]
        statement = POLICY | {"Resource": self.arn}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        sqs.set_queue_attributes(QueueUrl=self.url, Attributes={"Policy": policy})

    def listen_to(self, storage: Storage, bucket: str) -> None:
        """Let a bucket send its notifications here."""
        queue = {"QueueArn": self.arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
        client = storage.client()
        client.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [queue]}
        )
        client.close()

    def send(self, *bodies: str) -> None:
        """Send messages."""
        for text in bodies:
            self.sqs.send_message(QueueUrl=self.url, MessageBody=text)

    def counts(self) -> tuple[int, int]:
        """Return how many messages wait, and how many were received and not deleted."""
        names: Sequence[str] = ("", "NotVisible")
        names = [f"ApproximateNumberOfMessages{name}" for name in names]
        values = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        waiting, received = (int(values["Attributes"][name]) for name in names)
        return waiting, received

    def wait_until_empty(self, seconds: float = 30) -> None:
        """Wait until all messages are deleted."""
        wait_until(lambda: self.counts() == (0, 0), seconds, "all messages are deleted")
