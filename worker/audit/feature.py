from worker.feature import Feature, Job

FEATURE = Feature(
    name="audit",
    page="docs/audit.md",
    groups={"audit": "Read the audit log of requests, decisions and administration."},
    commands={
        "audit cancellations": "audit.list_command:list_cancellations",
        "audit changes": "audit.changes_command:list_changes",
        "audit count": "audit.count_command:count",
        "audit list": "audit.list_command:list_grants",
        "audit rejections": "audit.list_command:list_rejections",
        "audit show": "audit.show_command:show",
        "audit summary": "audit.count_command:summary",
        "audit top": "audit.count_command:top",
    },
    jobs=(Job("key_index", "keys_indexed", "audit.key_lookup:index_keys"),),
    tables=dict.fromkeys(("key_pages", "key_segments", "unindexed_chunks"), "worker"),
    metrics={
        "85 refusals": "audit.grant_metrics:read_refusals",
        "95 grants": "audit.grant_metrics:read_grants",
    },
)
