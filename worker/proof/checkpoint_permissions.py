"""The AWS permissions of checkpoints in buckets."""

from worker.shared.aws_permissions import Permission

PERMISSIONS: tuple[Permission, ...] = (
    Permission(
        "Checkpoints",
        "checkpoints",
        ("s3:GetObject", "s3:PutObject"),
        "objects",
        "signed checkpoints are published, and compared before the next one is signed",
        "`VALETKEY_AUDIT_CHECKPOINTS` has `s3://PROFILE/PREFIX`",
        lambda use: use.own_prefixes,
    ),
    Permission(
        "CheckpointNames",
        "checkpoints",
        ("s3:ListBucket",),
        "listing",
        "the newest published checkpoint is looked for",
        "`VALETKEY_AUDIT_CHECKPOINTS` has `s3://PROFILE/PREFIX`",
        lambda use: use.own_prefixes,
    ),
)
