from worker.feature import Feature

FEATURE = Feature(
    name="explain",
    page="docs/operating.md",
    commands={"explain": "explain.explain_command:explain"},
    asks={"explain": "explain.request_explanation:respond_to_explain"},
)
