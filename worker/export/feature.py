from worker.feature import Feature

FEATURE = Feature(
    name="export",
    needs=("audit", "proof"),
    page="docs/audit.md",
    commands={
        "audit export": "export.export_command:export",
        "audit verify --export": "export.export_check:ExportCheck",
    },
    actions={"85 exports": "export.export_permissions:PERMISSIONS"},
)
