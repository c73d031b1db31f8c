from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from worker.feature import Feature, Task

PROBE_TASK = "valetkey.probe"

FEATURE = Feature(
    name="doctor",
    page="docs/operating.md",
    without_settings=("doctor",),
    commands={
        "deadletters": "doctor.broker_commands:deadletters",
        "doctor": "doctor.doctor_command:doctor",
        "metrics": "doctor.metrics_command:metrics",
        "workers": "doctor.broker_commands:workers",
    },
    # What waited in a lane is served in either queue.
    tasks={
        PROBE_TASK: Task(
            (INTERACTIVE_QUEUE, BULK_QUEUE), "doctor.service_probe:answer_probe", result_seconds=60
        )
    },
    starts=("doctor.latencies:LatencyFlusher",),
    actions={"40 versioning": "doctor.doctor_permissions:PERMISSIONS"},
    tables={"probes": "worker"},
    checks={
        "settings": "reference/settings",
        **dict.fromkeys(("database", "broker", "results"), "runbooks/lost"),
        **dict.fromkeys(("workers", "probe", "doctor"), "runbooks/service"),
        "queues": "runbooks/backlog",
        "messages": "runbooks/messages",
        "upkeep": "runbooks/quota",
        "buckets": "runbooks/storage",
        "permissions": "reference/permissions",
        **dict.fromkeys(("role", "partitions"), "operating"),
        "tenants": "security",
    },
    metrics={
        "10 releases": "doctor.database_metrics:read_releases",
        "70 quotas": "doctor.database_metrics:read_quotas",
        "80 rejections": "doctor.database_metrics:read_rejections",
    },
)
