from worker.feature import Feature

FEATURE = Feature(
    name="report",
    needs=("webhooks", "uses", "contract", "audit", "proof"),
    page="docs/audit.md",
    commands={"audit report": "report.report_command:report"},
)
