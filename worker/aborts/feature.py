from worker.feature import Feature, Job

FEATURE = Feature(
    name="aborts",
    page="docs/runbooks/storage.md",
    jobs=(Job("aborts", "uploads_aborted", "aborts.multipart_aborts:abort_expired_uploads"),),
    checks={"uploads": "runbooks/storage"},
    database_checks="aborts.abort_monitoring:database_checks",
)
