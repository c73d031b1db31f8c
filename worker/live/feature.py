from worker.feature import Feature

FEATURE = Feature(
    name="live",
    needs=("doctor",),
    page="docs/appendix/live-checks.md",
    commands={"doctor --live": "live.live_command:add_live_options"},
    actions={"95 live": "live.live_permissions:PERMISSIONS"},
)
