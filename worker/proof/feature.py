from worker.feature import Feature, Job

FEATURE = Feature(
    name="proof",
    needs=("webhooks", "audit"),
    page="docs/proofs.md",
    commands={
        "audit checkpoint": "proof.checkpoint_command:checkpoint",
        "audit key": "proof.checkpoint_key:key",
        "audit prove": "proof.prove_command:prove",
        "audit prune": "proof.prune_command:prune_log",
        "audit verify": "proof.verify.verify_command:verify",
    },
    jobs=(
        Job(
            "config_check", "config_compared", "proof.verify.config_watch:watch_config", seconds=60
        ),
        Job("checkpoints", "checkpoints_signed", "proof.checkpoints:publish_on_time"),
    ),
    actions={"70 checkpoints": "proof.checkpoint_permissions:PERMISSIONS"},
    settings="proof.proof_settings:ProofSettings",
    tables={
        **dict.fromkeys(("checkpoint_publications", "checkpoints", "refused_chunks"), "worker"),
        **dict.fromkeys(("item_edges", "prunes"), "owner"),
    },
    checks=dict.fromkeys(("audit", "config"), "runbooks/log"),
    database_checks="proof.proof_monitoring:database_checks",
    service_checks="proof.proof_monitoring:service_checks",
    metrics={
        "60 trees": "proof.proof_monitoring:read_trees",
        "65 config": "proof.proof_monitoring:read_config",
    },
    own_prefixes="proof.proof_settings:checkpoint_prefixes",
)
