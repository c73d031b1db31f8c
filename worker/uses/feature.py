from worker.feature import Feature, Job, Role

EVENTS_ROLE = "events"
"""The role of workers that read queues of SQS, which bucket profiles name."""

EVENTS_PREFIX = "events:"
"""The beginning of the names of SQS queues among those that workers consume."""

FEATURE = Feature(
    name="uses",
    needs=("webhooks", "audit"),
    page="docs/uses.md",
    commands={"uses": "uses.use_commands:uses"},
    jobs=(Job("settling", "slots_settled", "uses.settlement:settle_ended_slots"),),
    roles={
        EVENTS_ROLE: Role(
            "uses.events.event_intake",
            "uses.events.queue_readers:has_queues",
            "read event notifications of storage",
            "a bucket profile names a queue",
        )
    },
    asks={"status": "uses.batch_uses:respond_to_status"},
    actions={
        "20 probes": "uses.uses_permissions:PROBES",
        "50 events": "uses.uses_permissions:EVENT_QUEUES",
        "80 logs": "uses.uses_permissions:LOGS",
    },
    tables=dict.fromkeys(
        ("ended_slots", "log_imports", "settlements", "stored_objects", "uses"), "worker"
    ),
    events=dict.fromkeys(
        ("upload.mismatched", "upload.stored", "upload.unused"),
        "uses.upload_deliveries:read_upload_news",
    ),
    tenant_fields=("buckets.events_queue", "buckets.probe_rate", "tenants.refund_unused"),
    checks={"settlements": "runbooks/quota", "events": "runbooks/storage"},
    database_checks="uses.use_monitoring:database_checks",
    service_checks="uses.use_monitoring:service_checks",
    metrics={
        "30 slots": "uses.use_monitoring:read_backlog",
        "90 uses": "uses.use_monitoring:read_uses",
    },
    story="uses.use_story:read_story",
    story_lines="uses.use_story:story_lines",
    hooks={"released": "uses.ended_slots:keep_slots", "given_back": "uses.ended_slots:give_back"},
)
