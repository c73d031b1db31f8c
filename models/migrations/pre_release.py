"""The revisions of databases of checkouts before 0.1.0, which no release can use or migrate.

Another id of the first migration needs no line here: `worker.cli.database` refuses each that
begins with its number. The id of any other migration that is removed before 0.1.0 belongs here.
"""

PRE_RELEASE_REVISIONS = frozenset(
    {
        "0002_tenant_ids",
        "0003_fair_turns",
        "0004_upload_starts",
        "0005_plain_links",
        "0006_trees",
        "0007_partitions",
        "0008_key_lookup",
        "0009_list",
        "0011_refused_chunks",
        "0012_item_edges",
        "0013_uses",
        "0014_settling",
        "0015_object_versions",
        "0016_log_imports",
        "0017_revocations",
        "0018_sessions_from",
    }
)
