from worker.core import UPKEEP_QUEUE
from worker.feature import Feature, Job, Task

FEATURE = Feature(
    name="webhooks",
    page="docs/webhooks.md",
    groups={
        "webhooks": "Show, test and repair the delivery of webhooks, and the endpoints that receive"
        " them."
    },
    commands={
        "webhooks disable": "webhooks.commands.endpoint_commands:disable",
        "webhooks enable": "webhooks.commands.endpoint_commands:enable",
        "webhooks endpoints": "webhooks.commands.endpoint_commands:list_endpoints",
        "webhooks key": "webhooks.commands.secret_commands:key",
        "webhooks list": "webhooks.commands.delivery_commands:list_deliveries",
        "webhooks manifests": "webhooks.commands.delivery_commands:list_manifests",
        "webhooks resend": "webhooks.commands.resend_command:resend",
        "webhooks secret": "webhooks.commands.secret_commands:secret",
        "webhooks show": "webhooks.commands.delivery_commands:show_delivery",
        "webhooks test": "webhooks.commands.endpoint_trial:test_endpoint",
    },
    tasks={
        "valetkey.deliver": Task((UPKEEP_QUEUE,)),
        "valetkey.manifests": Task((UPKEEP_QUEUE,)),
    },
    jobs=(
        Job(
            "deliver", "webhooks_sent", "webhooks.webhook_delivery:deliver_due", "valetkey.deliver"
        ),
        Job("relay", "events_relayed", "webhooks.event_relay:relay_events", "valetkey.deliver"),
        Job(
            "manifests",
            "manifests_written",
            "webhooks.manifest_writer:write_due_manifests",
            "valetkey.manifests",
        ),
        Job("webhooks", "webhooks_cleaned_up", "webhooks.webhook_delivery:clean_up_webhooks"),
    ),
    asks={"listen": "webhooks.listeners:listen"},
    request_fields=("callback", "manifest", "notify"),
    in_use="webhooks.outbox:count_pending_webhooks",
    settings="webhooks.webhook_settings:WebhookSettings",
    tenant_rules="webhooks.tenant_rules:find_endpoint_conflicts",
    tables=dict.fromkeys(
        (
            *("deliveries", "delivery_attempts", "endpoint_hours", "endpoint_states"),
            *("manifests", "webhook_listeners"),
        ),
        "worker",
    ),
    tenant_fields=("tenants.allow.callbacks", "tenants.endpoints"),
    checks=dict.fromkeys(("webhooks", "endpoints", "manifests"), "runbooks/endpoint-down"),
    database_checks="webhooks.webhook_monitoring:database_checks",
    service_checks="webhooks.webhook_monitoring:service_checks",
    metrics={
        "20 webhooks": "webhooks.webhook_monitoring:read_backlog",
        "40 endpoints": "webhooks.webhook_monitoring:read_endpoints",
    },
    story="webhooks.delivery_story:read_story",
    story_lines="webhooks.delivery_story:story_lines",
    hooks={
        "prepare": "webhooks.decided_batches:prepare_outcome",
        "decided": "webhooks.decided_batches:insert_outcomes",
        "released": "webhooks.decided_batches:complete_closed",
        "committed": "webhooks.decided_batches:trigger_deliveries",
        "batch_state": "webhooks.decided_batches:describe_manifest",
    },
)
