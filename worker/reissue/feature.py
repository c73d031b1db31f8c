from worker.feature import Feature

FEATURE = Feature(
    name="reissue",
    page="docs/producers.md",
    asks={"reissue": "reissue.fresh_grants:reissue_grant"},
)
