from worker.feature import Feature

FEATURE = Feature(
    name="cancel",
    page="docs/revoking.md",
    asks={"cancel": "cancel.cancellation:respond_to_cancel"},
)
