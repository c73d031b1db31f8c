"""Describes what the core itself contributes: it is registered as a feature is, and comes first."""

from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE, ISSUE_TASK
from worker.feature import UPKEEP_TASK, Feature, Job, Task

UPKEEP_QUEUE = "valetkey.upkeep"

CORE = Feature(
    name="core",
    page="docs/architecture.md",
    commands={
        "apply": "tenants.apply_command:apply",
        "health": "health:health",
        "migrate": "cli.database:migrate",
        "run": "run:run",
    },
    standalone=("health", "migrate", "run"),
    without_settings=("health",),
    settings="settings:Settings",
    tasks={
        ISSUE_TASK: Task((INTERACTIVE_QUEUE, BULK_QUEUE)),
        UPKEEP_TASK: Task((UPKEEP_QUEUE,)),
    },
    jobs=(Job("cleanup", "cleaned_up", "issue.cleanup:clean_up"),),
    asks={
        "batch": "issue.earlier_batches:reopen_batch",
        "bundle": "issue.issuer:issue_bundle",
        "grants": "issue.issuer:respond_to_request",
        "service": "issue.dispatch:respond_to_service",
    },
    actions={
        "10 objects": "shared.aws_permissions:OBJECTS",
        "30 keys": "shared.aws_permissions:KEYS",
        "60 roles": "shared.aws_permissions:ROLES",
    },
    tables={
        **dict.fromkeys(
            (
                *("annotations", "batches", "cancellations", "chunks", "grants", "leaves"),
                *("multipart_uploads", "reissues", "rejections", "reservations"),
                *("tree_heads", "upload_starts", "usage"),
            ),
            "worker",
        ),
        **dict.fromkeys(
            (
                *("buckets", "config_changes", "config_revisions", "endpoints", "policies"),
                *("quota_overrides", "quotas", "tenant_identities", "tenant_keys", "tenants"),
            ),
            "operator",
        ),
    },
)
