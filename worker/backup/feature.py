from worker.feature import Feature

FEATURE = Feature(
    name="backup",
    page="docs/backup.md",
    standalone=("restore",),
    commands={
        "backup": "backup.backup_commands:backup",
        "restore": "backup.backup_commands:restore",
    },
)
