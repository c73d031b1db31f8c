from worker.feature import Feature

FEATURE = Feature(
    name="permissions",
    needs=("proof",),
    page="docs/reference/permissions.md",
    commands={"permissions": "permissions.permissions_command:permissions"},
)
