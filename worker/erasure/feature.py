from worker.feature import Feature

FEATURE = Feature(
    name="erasure",
    needs=("audit",),
    page="docs/retention.md",
    commands={
        "audit erase": "erasure.erasure:erase",
        "audit erasures": "erasure.erasure:list_erasures",
    },
    tables={"erasures": "owner"},
)
