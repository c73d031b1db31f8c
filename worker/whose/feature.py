from worker.feature import Feature

FEATURE = Feature(
    name="whose",
    needs=("revoke", "audit"),
    page="docs/runbooks/leaked-link.md",
    commands={"audit whose": "whose.whose_command:whose"},
)
