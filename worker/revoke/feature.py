from worker.feature import Feature, Job

FEATURE = Feature(
    name="revoke",
    needs=("cancel", "aborts"),
    page="docs/revoking.md",
    commands={
        "audit revocations": "revoke.revocations_command:list_revocations",
        "revoke": "revoke.revoke_command:revoke",
    },
    jobs=(
        Job("denials", "denials_removed", "revoke.kept_statements:keep_denials"),
        Job(
            "ended_sessions",
            "role_policies_removed",
            "revoke.session_revocation:keep_sessions_ended",
        ),
    ),
    actions={"90 revocation": "revoke.revoke_permissions:PERMISSIONS"},
    settings="revoke.revoke_settings:RevokeSettings",
    tables=dict.fromkeys(("denials", "ended_sessions", "revocations"), "worker"),
    checks={"denials": "runbooks/leaked-link"},
    database_checks="revoke.denial_monitoring:database_checks",
    metrics={"50 denials": "revoke.denial_monitoring:read_policies"},
    story="revoke.revocation_story:read_story",
    story_lines="revoke.revocation_story:story_lines",
    hooks={
        "withdrawn": "revoke.revocation_rows:find_withdrawn",
        "sessions_from": "revoke.session_rows:read_sessions_from",
    },
)
