from worker.feature import Feature

FEATURE = Feature(name="scripting", needs=("audit", "whose"), page="docs/audit.md")
