from worker.feature import Feature

FEATURE = Feature(
    name="permissions",
    page="docs/reference/permissions.md",
    commands={"permissions": "permissions.permissions_command:permissions"},
)
