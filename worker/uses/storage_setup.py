"""The configuration with which storage reports uses: event notifications and access logs.

Sources: AWS's S3 user guide (NotificationHowTo, grant-destinations-permissions-to-s3,
enable-server-access-logging), MinIO's `mc event`, Ceph's radosgw/notifications and
radosgw/bucket_logging.
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from worker.rules.role_session import policy_document
from worker.rules.tenant_config import Bucket
from worker.shared.aws_permissions import ProfileUse, aws_domain, aws_partition, find_needs

Storage = Literal["aws", "minio", "rgw", "seaweedfs"]

EVENTS = ("s3:ObjectCreated:*", "s3:ObjectRemoved:*")
AWS_EVENTS = (*EVENTS, "s3:LifecycleExpiration:*")
_RETENTION = timedelta(days=14)  # the longest (AWS: SQS quotas): the time to repair the intake


class SetupNames(NamedTuple):
    """The names in a configuration. account is the AWS account that owns bucket and queue."""

    profile: str
    bucket: str
    region: str
    partition: str
    account: str
    queue: str
    queue_arn: str
    queue_url: str
    log_bucket: str
    log_prefix: str


def setup_names(bucket: Bucket, account: str, queue: str) -> SetupNames:
    """Return the names in the configuration of the storage behind a bucket profile."""
    partition = aws_partition(bucket.region)
    return SetupNames(
        profile=bucket.name,
        bucket=bucket.bucket,
        region=bucket.region,
        partition=partition,
        account=account,
        queue=queue,
        queue_arn=f"arn:{partition}:sqs:{bucket.region}:{account}:{queue}",
        queue_url=f"https://sqs.{bucket.region}.{aws_domain(bucket.region)}/{account}/{queue}",
        log_bucket=f"{bucket.bucket}-logs",
        log_prefix=f"{bucket.bucket}/",
    )


def setup_documents(storage: Storage, names: SetupNames) -> Mapping[str, dict[str, Any]]:
    """Return the JSON documents of a setup by file name."""
    match storage:
        case "aws":
            return _aws_documents(names)
        case "rgw":
            topic = {"Id": "valetkey", "TopicArn": f"arn:aws:sns:default::{names.queue}"}
            topics = {"TopicConfigurations": [topic | {"Events": list(EVENTS)}]}
            return {"topic.json": topics, "logging.json": _logging(names)}
        case _:
            return {}


def _logging(names: SetupNames) -> dict[str, Any]:
    target = {"TargetBucket": names.log_bucket, "TargetPrefix": names.log_prefix}
    return {"LoggingEnabled": target}


def _aws_documents(names: SetupNames) -> dict[str, dict[str, Any]]:
    source = {
        "ArnLike": {"aws:SourceArn": f"arn:{names.partition}:s3:::{names.bucket}"},
        "StringEquals": {"aws:SourceAccount": names.account},
    }
    logs = f"arn:{names.partition}:s3:::{names.log_bucket}"
    return {
        "queue.json": {
            "Policy": json.dumps(
                policy_document(
                    _statement("s3.amazonaws.com", "sqs:SendMessage", names.queue_arn, source)
                )
            ),
            "MessageRetentionPeriod": str(_RETENTION.days * 86_400),
        },
        "notification.json": {
            "QueueConfigurations": [
                {"Id": "valetkey", "QueueArn": names.queue_arn, "Events": list(AWS_EVENTS)}
            ]
        },
        "log-policy.json": policy_document(
            _statement("logging.s3.amazonaws.com", "s3:PutObject", f"{logs}/*", source)
        ),
        "logging.json": _logging(names),
        "worker-policy.json": policy_document(*_worker_statements(names)),
    }


def _worker_statements(names: SetupNames) -> Iterator[dict[str, Any]]:
    bucket = Bucket(names.profile, names.bucket, names.region, events_queue=names.queue_url)
    logs = Bucket("logs", names.log_bucket, names.region)
    for use in (ProfileUse(bucket), ProfileUse(logs, options={"logs": (names.log_prefix,)})):
        yield from (need.statement() for need in find_needs(use))


def _statement(
    service: str, action: str, resource: str, condition: dict[str, Any]
) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": action,
        "Resource": resource,
        "Condition": condition,
    }


def setup_steps(storage: Storage, names: SetupNames) -> str:
    """Return the commands of a setup for a shell, with a comment for each step."""
    words = {name: shlex.quote(text) for name, text in names._asdict().items()}
    return _STEPS[storage].format_map(words)


_STEPS: Mapping[Storage, str] = {
    "aws": """\
# Create a queue that takes messages from the bucket, and keeps them for 14 days.
aws sqs create-queue --region {region} --queue-name {queue} \\
  --attributes file://queue.json

# Send the bucket's events to it. This replaces all other notifications of the bucket.
aws s3api put-bucket-notification-configuration --region {region} --bucket {bucket} \\
  --notification-configuration file://notification.json

# Write access logs into another bucket. This replaces the policy of that bucket.
aws s3api put-bucket-policy --region {region} --bucket {log_bucket} \\
  --policy file://log-policy.json
aws s3api put-bucket-logging --region {region} --bucket {bucket} \\
  --bucket-logging-status file://logging.json

# Allow the workers to read both: this is for a user named valetkey.
aws iam put-user-policy --user-name valetkey --policy-name valetkey-uses \\
  --policy-document file://worker-policy.json

# Add this line to [buckets.{profile}] in tenants.toml, and apply the file.
# events_queue = "{queue_url}"

# Import the logs once a day. Here, logs is the bucket profile of {log_bucket}.
python -m worker uses import s3://logs/{log_prefix}
""",
    "minio": """\
# MinIO sends events to webhooks, Kafka, AMQP and others, but not to SQS. Let one of them put each
# record, unchanged, into a queue with SQS's protocol. ALIAS is MinIO's in mc.
mc event add ALIAS/{bucket} arn:minio:sqs::valetkey:webhook --event put,delete

# Add the URL of that queue to [buckets.{profile}] in tenants.toml, and apply the file.
# events_queue = "http://sqs.internal:9324/000000000000/{queue}"

# Without events, the service looks for the objects of upload slots when they end.
""",
    "rgw": """\
# RGW sends events to AMQP, Kafka and HTTP endpoints, but not to SQS. Let one of them put each
# record, unchanged, into a queue with SQS's protocol. ENDPOINT is RGW's.
aws sns create-topic --endpoint-url ENDPOINT --name {queue} \\
  --attributes push-endpoint=http://relay.internal:8080,persistent=true
aws s3api put-bucket-notification-configuration --endpoint-url ENDPOINT --bucket {bucket} \\
  --notification-configuration file://topic.json

# Add the URL of that queue to [buckets.{profile}] in tenants.toml, and apply the file.
# events_queue = "http://sqs.internal:9324/000000000000/{queue}"

# From Ceph Tentacle on, write access logs in AWS's format into another bucket, and import them.
aws s3api put-bucket-logging --endpoint-url ENDPOINT --bucket {bucket} \\
  --bucket-logging-status file://logging.json
python -m worker uses import s3://logs/{log_prefix}

# In older releases, import the operations log (rgw_enable_ops_log) instead.
python -m worker uses import /var/log/ceph/ops-log.log
""",
    "seaweedfs": """\
# SeaweedFS needs no set-up: the service looks for the objects of upload slots when they end. Its
# audit log has no queries, so it cannot report downloads.
""",
}
