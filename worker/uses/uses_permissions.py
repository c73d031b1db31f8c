"""The AWS permissions of probes, event notifications and access logs."""

import re
from urllib.parse import urlsplit

from worker.rules.issued_grants import storage_host
from worker.shared.aws_permissions import Permission, ProfileUse, aws_partition

# sqs.REGION.…, sqs-fips.REGION.…, ….sqs.REGION.vpce.…, and REGION.queue.… of older URLs.
_QUEUE_REGION = re.compile(r"(?:^|\.)sqs(?:-fips)?\.([a-z0-9-]+)\.|^([a-z0-9-]+)\.queue\.")


def queue_region(url: str) -> str | None:
    """Return the region that the URL of a queue of AWS names, or None."""
    found = _QUEUE_REGION.search(urlsplit(url).netloc)
    return None if found is None else found[1] or found[2]


def _queue_arns(use: ProfileUse) -> tuple[str, ...]:
    """Return the ARN of a queue of AWS; other servers with SQS's protocol have no policies."""
    url = use.bucket.events_queue or ""
    region = queue_region(url)
    if region is None or storage_host(url) is not None:
        return ()
    account, name = url.split("/")[-2:]
    return (f"arn:{aws_partition(region)}:sqs:{region}:{account}:{name}",)


PROBES: tuple[Permission, ...] = (
    Permission(
        "MissingObjects",
        "probes",
        ("s3:ListBucket",),
        "bucket",
        "storage answers 404 instead of 403 for an object that is missing, so that unused bytes "
        "are given back; with a condition for a prefix it would not",
        "a policy has the kind `upload`, `put` or `multipart`, and the profile no `role_arn`",
        lambda use: () if use.bucket.role_arn else use.stores,
    ),
)

EVENT_QUEUES: tuple[Permission, ...] = (
    Permission(
        "Events",
        "events",
        ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"),
        "queue",
        "a worker takes the bucket's events from the queue; `doctor` counts them",
        "the bucket profile has `events_queue`; an encrypted queue also needs `kms:Decrypt`",
        _queue_arns,
        "workers",
    ),
)

LOGS: tuple[Permission, ...] = (
    Permission(
        "AccessLogs",
        "access logs",
        ("s3:GetObject",),
        "objects",
        "`uses import` reads logs",
        "`--logs s3://PROFILE/PREFIX`",
        "logs",
    ),
    Permission(
        "AccessLogNames",
        "access logs",
        ("s3:ListBucket",),
        "listing",
        "`uses import` lists the logs below a prefix",
        "`--logs s3://PROFILE/PREFIX`",
        "logs",
    ),
)
