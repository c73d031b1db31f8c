from worker.feature import Feature

FEATURE = Feature(
    name="quota",
    page="docs/runbooks/quota.md",
    commands={"quota": "quota.quota_command:quota"},
    asks={"usage": "quota.tenant_usage:describe_usage"},
)
